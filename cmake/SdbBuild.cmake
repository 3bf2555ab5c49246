# SPDX-License-Identifier: LGPL-3.0-or-later
# How everything here is compiled: language, warnings, sanitizers; and the functions the folders use to add their parts.
#
#   sdb_library(TARGET SHARED|STATIC ...)     a library with the flags below
#   sdb_program(TARGET SOURCES...)            a program with the flags below
#   sdb_shared_library(TARGET MAP)            its version, and the symbols that leave it

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, Debug, Sanitize, or None for flags of your own" FORCE)
endif()

# NDEBUG is never set: assertions state our own rules, and a broken rule must stop before it reaches the disk.
set(CMAKE_C_FLAGS_RELEASE "-O2 -g -D_FORTIFY_SOURCE=2 -fstack-protector-strong")
set(CMAKE_C_FLAGS_DEBUG "-O0 -g3")
set(CMAKE_C_FLAGS_SANITIZE "-O1 -g -fno-omit-frame-pointer")

# Defined empty, so that a file that also says `#define _GNU_SOURCE` agrees.
add_compile_definitions(_GNU_SOURCE=)

include(CheckCCompilerFlag)
add_library(sdb_warnings INTERFACE)
foreach(warning
    all extra pedantic shadow conversion sign-conversion strict-prototypes missing-prototypes old-style-definition vla undef
    pointer-arith cast-qual cast-align write-strings redundant-decls nested-externs format=2 format-nonliteral null-dereference
    double-promotion duplicated-cond duplicated-branches logical-op implicit-fallthrough unused-macros
    missing-variable-declarations)
  string(MAKE_C_IDENTIFIER "SDB_HAS_W_${warning}" variable)
  check_c_compiler_flag(-W${warning} ${variable})
  if(${variable})
    target_compile_options(sdb_warnings INTERFACE -W${warning})
  endif()
endforeach()
if(SDB_WERROR)
  target_compile_options(sdb_warnings INTERFACE -Werror)
endif()

if(SDB_SANITIZE)
  add_compile_options(-fsanitize=${SDB_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SDB_SANITIZE})
else()
  add_link_options(-Wl,-z,relro,-z,now)
endif()
if(SDB_COVERAGE)
  add_compile_options(--coverage -fprofile-update=atomic)
  add_link_options(--coverage)
endif()

function(sdb_library target)
  add_library(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:sdb_warnings>)
endfunction()

# A shared library of ours: version, the symbols that leave it, nothing left undefined.
function(sdb_shared_library target map)
  set_target_properties(${target} PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINK_DEPENDS ${map})
  target_link_options(${target} PRIVATE -Wl,--version-script=${map})
  if(NOT SDB_SANITIZE)
    target_link_options(${target} PRIVATE -Wl,-z,defs)
  endif()
endfunction()

function(sdb_program target)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE sdb_warnings)
endfunction()
