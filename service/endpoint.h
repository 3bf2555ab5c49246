/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* endpoint.h - where the service may be bound, and the options that every bound socket gets. */
#ifndef SERVICE_ENDPOINT_H
#define SERVICE_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>

/* NULL: allowed. Else why not, in words that follow the endpoint: only loopback addresses and ipc are bound. */
const char *endpoint_refusal(const char *endpoint);

/* Heartbeats, handshake time, linger; IPv6 where the endpoint needs it. */
void endpoint_prepare(void *socket, const char *endpoint);

/* Binds and tells where (a port * or 0 becomes a number). False: it has said why on stderr. */
bool endpoint_bind(void *socket, const char *endpoint, char *bound, size_t bound_size);

#endif
