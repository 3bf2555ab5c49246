# SPDX-License-Identifier: LGPL-3.0-or-later
# What `cmake --install` lays down: libraries, headers, programs, pkg-config files and the CMake package StreamDB with its
# components sdb (the engine) and sdbc (the client of the service).
include(CMakePackageConfigHelpers)
# The prefix as pkg-config files say it: from where they stand, so that an installed tree can be moved.
file(RELATIVE_PATH SDB_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" SDB_PC_PREFIX "\${pcfiledir}/${SDB_PC_PREFIX}")
set(SDB_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/StreamDB)

# sdb_install_library(TARGET INCLUDE_DIR PC_TEMPLATE)
function(sdb_install_library target include_dir template)
  install(TARGETS ${target} EXPORT StreamDB-${target}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT StreamDB-${target} NAMESPACE StreamDB:: DESTINATION ${SDB_PACKAGE_DIR})
  install(DIRECTORY ${include_dir}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
  configure_file(${template} ${PROJECT_BINARY_DIR}/${target}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${target}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()

sdb_install_library(sdb ${PROJECT_SOURCE_DIR}/engine/include ${PROJECT_SOURCE_DIR}/engine/sdb.pc.in)
if(SDB_BUILD_SERVICE)
  sdb_install_library(sdbc ${PROJECT_SOURCE_DIR}/bindings/c/include ${PROJECT_SOURCE_DIR}/bindings/c/sdbc.pc.in)
  install(TARGETS streamdbd streamdb RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(FILES ${PROJECT_SOURCE_DIR}/cli/completion/streamdb DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
endif()

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/StreamDBConfig.cmake.in ${PROJECT_BINARY_DIR}/StreamDBConfig.cmake
  INSTALL_DESTINATION ${SDB_PACKAGE_DIR} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/StreamDBConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/StreamDBConfig.cmake ${PROJECT_BINARY_DIR}/StreamDBConfigVersion.cmake
  DESTINATION ${SDB_PACKAGE_DIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/LICENSE.GPL-3.0 ${PROJECT_SOURCE_DIR}/README.md
  ${PROJECT_SOURCE_DIR}/CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
install(FILES ${PROJECT_SOURCE_DIR}/proto/dcf_db.proto DESTINATION ${CMAKE_INSTALL_DOCDIR}/proto)
