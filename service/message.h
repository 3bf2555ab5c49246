/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* message.h - from frames to requests and from replies to frames.
 *
 *     [routing id] [empty]? [header] [body]?          a message on the ROUTER
 *
 * What comes from a socket is untrusted. Frames are bounded before they are looked at; a header is unpacked into a fixed arena, so
 * a hostile one costs at most that.
 */
#ifndef SERVICE_MESSAGE_H
#define SERVICE_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zmq.h>

#include "bounds.h"
#include "dcf_db.pb-c.h"
#include "sdb/sdb.h"

typedef Dcf__Db__V1__Request pb_request;
typedef Dcf__Db__V1__Reply pb_reply;
typedef Dcf__Db__V1__Info pb_info;
typedef Dcf__Db__V1__Entry pb_entry;
typedef Dcf__Db__V1__Event pb_event;
typedef Dcf__Db__V1__Reply__StatisticsEntry pb_figure;
typedef Dcf__Db__V1__Code pb_code;
typedef Dcf__Db__V1__Durability pb_durability;
typedef ProtobufCBinaryData pb_bytes;

#define CODE(name) DCF__DB__V1__CODE__##name

/* One message as it came. */
typedef struct incoming {
  zmq_msg_t peer, header, body;
  bool envelope; /* there was an empty frame in front */
  bool has_body;
  bool too_many; /* frames; the rest was thrown away */
} incoming;

/* 0: filled, to be closed. Else an errno; EAGAIN: nothing is there. */
int incoming_receive(void *socket, incoming *in);
void incoming_close(incoming *in);

/* Where one request is unpacked; used again for the next. */
typedef struct arena {
  size_t used;
  _Alignas(max_align_t) uint8_t bytes[ARENA_BYTES];
} arena;

/* The request, valid until the next call with the arena; NULL when the bytes are not one. */
pb_request *request_unpack(arena *a, const void *data, size_t len);
/* The id of a header that could not be unpacked, if its first field is one; else 0. */
uint64_t request_salvage_id(const void *data, size_t len);

/* The finer code for an answer of the store. */
pb_code code_of(int rc);
/* DCF's code for the finer one. */
int32_t status_of(pb_code code);

/* `out` points into `from`'s id: the reply must be packed while `from` lives. */
void info_fill(pb_info *out, const sdb_info *from);

/* A new message with the packed reply. False on shortage. */
bool reply_pack(const pb_reply *reply, zmq_msg_t *header);

#endif
