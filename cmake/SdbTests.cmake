# SPDX-License-Identifier: LGPL-3.0-or-later
# Functions that add tests.
#
#   sdb_test(NAME [SOURCES ...] [LIBRARIES ...] [LABELS ...] [TIMEOUT s] [ARGS ...])
#       a program linked with Check, run by CTest under NAME. Without TIMEOUT that of the test preset holds, which the command line
#       of ctest may replace; a test's own it may not
#   sdb_tests_in_folder(PART [LIBRARIES ...] [TIMEOUT s])
#       every test_*.c of the folder as a program PART.*, labelled PART, and `concurrent` when its name says so; such a test is left
#       out when the engine is built without threads
#
# The target concurrent_tests builds all that is labelled so.
add_custom_target(concurrent_tests)

function(sdb_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;LIBRARIES;LABELS;ARGS")
  sdb_program(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LIBRARIES} PkgConfig::CHECK)
  add_test(NAME ${name} COMMAND ${name} ${arg_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}")
  if(concurrent IN_LIST arg_LABELS)
    add_dependencies(concurrent_tests ${name})
  endif()
  if(arg_TIMEOUT)
    set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT})
  endif()
endfunction()

function(sdb_tests_in_folder part)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "LIBRARIES")
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/test_*.c)
  foreach(source IN LISTS sources)
    get_filename_component(stem ${source} NAME_WE)
    string(REGEX REPLACE "^test_" "" stem ${stem})
    set(labels ${part})
    if(stem MATCHES "concurrent" AND NOT SDB_THREADS)
      continue()
    endif()
    if(stem MATCHES "concurrent")
      list(APPEND labels concurrent)
    endif()
    sdb_test(${part}.${stem} SOURCES ${source} LIBRARIES ${arg_LIBRARIES} LABELS ${labels} TIMEOUT "${arg_TIMEOUT}")
  endforeach()
endfunction()
