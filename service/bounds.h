/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* bounds.h - every bound of the service in one place. docs/protocol.md section 11 tells clients about them. */
#ifndef SERVICE_BOUNDS_H
#define SERVICE_BOUNDS_H

#define KIB 1024u
#define MIB (1024u * 1024u)

/* Messages. */
#define MAX_BODY MIB
#define MAX_HEADER (8u * KIB)
#define MAX_FRAME (MIB + 64u * KIB)
#define MAX_PAGE_BYTES 1000000u /* of a search reply */
#define SEARCH_LIMIT 1000u
#define MAX_SEARCH_LIMIT 10000u
#define ARENA_BYTES                                                                                                                \
  (64u * KIB) /* for one unpacked request: an 8 KB header of nothing but unknown fields needs more and is refused */

/* Reads up to this size are answered by the thread that owns the socket. */
#define INLINE_READ (64u * KIB)
/* Bodies above this size are counted against the bytes a client may have in the socket; those below are bounded by the queue's
 * length. */
#define COUNTED_BODY (4u * KIB)

/* Streams and uploads. */
#define CHUNK_DEFAULT (256u * KIB)
#define CHUNK_MAX MIB
#define CREDIT_DEFAULT 4u
#define CREDIT_MAX 64u
#define CHUNKS_PER_TURN 4u /* what a worker reads for one stream before it looks at another */
#define UPLOAD_CREDIT 4u
#define UPLOAD_PENDING 8u /* accepted though the credit says less: a client that counts a little differently does no harm */
#define MAX_SLOTS 256u    /* streams, and uploads, in all */
#define CLIENT_SLOTS 16u
#define LEASE_MS 30000u

/* Bytes. */
#define CLIENT_BYTES_IN (16u * MIB)
#define TOTAL_BYTES_IN (64u * MIB)
#define CLIENT_BYTES_OUT (16u * MIB)
#define TOTAL_BYTES_OUT (64u * MIB)

/* Counts. */
#define CLIENT_WRITES 4096u
#define TOTAL_WRITES 16384u
#define CLIENT_JOBS 256u
#define TOTAL_JOBS 4096u
#define GROUP_WRITES 1024u /* in one group commit */
#define SEND_QUEUE 1024
#define RECEIVE_QUEUE 256
#define PARKED_REPLIES 256u
#define MAX_CLIENTS 16384u
#define CLIENT_IDLE_MS 60000
#define EVENT_QUEUE 10000     /* messages a subscriber may lag */
#define EVENTS_WAITING 65536u /* events between committer and publisher */
#define MAX_SUBSCRIPTION (2u * KIB)

/* Times, ms. */
#define RETRY_SEND_MS 2    /* a full peer is tried again */
#define SWEEP_MS 50        /* leases, idle clients, signals under load */
#define IDLE_MS 1000       /* the same when nothing is open */
#define RETRY_BYTES_MS 20u /* hints to clients */
#define RETRY_SLOTS_MS 1000u
#define COLD_MS 100       /* reads go to the workers after one of the front met the device */
#define STOP_SEND_MS 2000 /* replies that nobody fetches are given up at the end */

#define EXIT_SYNC_FAILED 75 /* the supervisor should start the service again */

#endif
