# SPDX-License-Identifier: LGPL-3.0-or-later
# Libraries from outside, found through pkg-config: PkgConfig::ZMQ, CZMQ, PROTOBUF_C, SODIUM, ISAL, CHECK; and snappy_c.
find_package(PkgConfig REQUIRED)

# Snappy brings no pkg-config file, and in some editions no CMake package.
find_library(SDB_SNAPPY_LIBRARY snappy)
find_path(SDB_SNAPPY_INCLUDE snappy-c.h)
if(NOT SDB_SNAPPY_LIBRARY OR NOT SDB_SNAPPY_INCLUDE)
  message(FATAL_ERROR "The engine needs snappy (Debian: libsnappy-dev).")
endif()
add_library(snappy_c INTERFACE IMPORTED)
set_target_properties(snappy_c PROPERTIES INTERFACE_LINK_LIBRARIES ${SDB_SNAPPY_LIBRARY}
  INTERFACE_INCLUDE_DIRECTORIES ${SDB_SNAPPY_INCLUDE})

pkg_check_modules(SODIUM REQUIRED IMPORTED_TARGET libsodium>=1.0.18)

# ISA-L computes CRC32C; without it the engine, alone, uses a table of its own.
if(SDB_ISAL)
  pkg_check_modules(ISAL IMPORTED_TARGET libisal>=2.30)
endif()
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

if(SDB_BUILD_SERVICE)
  pkg_check_modules(ZMQ REQUIRED IMPORTED_TARGET libzmq>=4.3.4)
  pkg_check_modules(CZMQ REQUIRED IMPORTED_TARGET libczmq>=4.2)
  pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c>=1.4)
  if(NOT ISAL_FOUND)
    message(FATAL_ERROR "The service and its client need libisal (Debian: libisal-dev).")
  endif()
  find_program(PROTOC_C protoc-c REQUIRED)
endif()
if(SDB_BUILD_TESTS)
  pkg_check_modules(CHECK REQUIRED IMPORTED_TARGET check>=0.15)
endif()
