/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* endpoint.c - judging endpoints. Without encryption and keys only this machine may connect. */
#include "endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#define HEARTBEAT_MS 5000
#define PEER_SILENT_MS 20000
#define HANDSHAKE_MS 10000
#define LINGER_MS 2000

static const char in_use[] = "it is in use by another process";

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

/* libzmq takes the name of an ipc endpoint away from whatever has it, be it another service or a file. Why it must not, or NULL. */
static const char *ipc_in_the_way(const char *endpoint) {
  const char *name = endpoint + 6;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct stat st;
  if (strncmp(endpoint, "ipc://", 6) != 0 || lstat(name, &st) != 0) return NULL;
  if (!S_ISSOCK(st.st_mode)) return "a file has that name, and was left as it is";
  if (strlen(name) >= sizeof address.sun_path) return NULL;
  memcpy(address.sun_path, name, strlen(name));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  bool answers = fd >= 0 && (connect(fd, (struct sockaddr *)(void *)&address, sizeof address) == 0 || errno == EAGAIN);
  if (fd >= 0) close(fd);
  return answers ? in_use : NULL;
}

bool endpoint_bind(void *socket, const char *endpoint, char *bound, size_t bound_size) {
  const char *why = ipc_in_the_way(endpoint);
  if (!why) {
    if (zmq_bind(socket, endpoint) == 0 && zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, &bound_size) == 0) return true;
    why = errno == EADDRINUSE ? in_use : zmq_strerror(errno);
  }
  fprintf(stderr, "streamdbd: cannot bind %s: %s\n", endpoint, why);
  return false;
}
