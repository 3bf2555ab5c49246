/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* endpoint.c - judging endpoints. Without encryption and keys only this machine may connect. */
#include "endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#define HEARTBEAT_MS 5000
#define PEER_SILENT_MS 20000
#define HANDSHAKE_MS 10000
#define LINGER_MS 2000

static bool is_loopback(const char *host, size_t len) {
  char text[64];
  if (len == 0 || len >= sizeof text) return false;
  memcpy(text, host, len);
  text[len] = '\0';
  if (strcmp(text, "localhost") == 0 || strcmp(text, "[::1]") == 0) return true;
  struct in_addr address;
  return inet_pton(AF_INET, text, &address) == 1 && (ntohl(address.s_addr) >> 24) == 127;
}

const char *endpoint_refusal(const char *endpoint) {
  if (strncmp(endpoint, "ipc://", 6) == 0) return endpoint[6] ? NULL : "names no file";
  if (strncmp(endpoint, "tcp://", 6) != 0) return "is neither tcp://ADDRESS:PORT nor ipc://FILE";
  const char *host = endpoint + 6;
  const char *colon = strrchr(host, ':');
  if (!colon || colon == host || colon[1] == '\0') return "is not of the form tcp://ADDRESS:PORT";
  if (!is_loopback(host, (size_t)(colon - host)))
    return "is not a loopback address; without encryption only loopback and ipc are bound";
  return NULL;
}

static void set(void *socket, int option, int value) { zmq_setsockopt(socket, option, &value, sizeof value); }

void endpoint_prepare(void *socket, const char *endpoint) {
  set(socket, ZMQ_LINGER, LINGER_MS);
  set(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
  set(socket, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS);
  set(socket, ZMQ_HEARTBEAT_TIMEOUT, PEER_SILENT_MS);
  set(socket, ZMQ_HEARTBEAT_TTL, PEER_SILENT_MS);
  set(socket, ZMQ_IPV6, strncmp(endpoint, "tcp://[", 7) == 0);
}

bool endpoint_bind(void *socket, const char *endpoint, char *bound, size_t bound_size) {
  if (zmq_bind(socket, endpoint) == 0 && zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, &bound_size) == 0) return true;
  fprintf(stderr, "streamdbd: cannot bind %s: %s\n", endpoint,
          errno == EADDRINUSE ? "it is in use by another process" : zmq_strerror(errno));
  return false;
}
