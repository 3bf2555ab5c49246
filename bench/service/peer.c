/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* peer.c - processes: started, heard, ended by their number. */
#include "peer.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

process process_start(const char *const *argv, char *ready, size_t len) {
  int out[2];
  fflush(NULL);
  if (pipe2(out, O_CLOEXEC)) die("no pipes");
  process p = {.pid = fork()};
  if (p.pid < 0) die("cannot start a process");
  if (!p.pid) {
    char *args[32] = {NULL};
    for (size_t i = 0; argv[i] && i < 31; i++) memcpy(&args[i], &argv[i], sizeof args[i]); /* execvp takes them as not const */
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* nothing is left behind when the benchmark dies */
    dup2(out[1], STDOUT_FILENO);
    execvp(args[0], args);
    _exit(127);
  }
  close(out[1]);
  if (ready) {
    char line[1024];
    FILE *f = fdopen(out[0], "r");
    if (!f || !fgets(line, sizeof line, f) || strncmp(line, "ready listen=", 13)) die("%s did not become ready", argv[0]);
    snprintf(ready, len, "%.*s", (int)strcspn(line + 13, " \n,"), line + 13);
    fclose(f);
  } else {
    close(out[0]);
  }
  return p;
}

void process_stop(process *p) {
  if (!p->pid) return;
  kill(p->pid, SIGTERM);
  waitpid(p->pid, NULL, 0);
  p->pid = 0;
}

unsigned free_port(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr *any = (struct sockaddr *)&address;
  socklen_t len = sizeof address;
  int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (s < 0 || bind(s, any, len) || getsockname(s, any, &len)) die("no free port");
  close(s);
  return ntohs(address.sin_port);
}
