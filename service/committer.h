/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* committer.h - the one thread that commits. */
#ifndef SERVICE_COMMITTER_H
#define SERVICE_COMMITTER_H

/* Thread body, with the service as argument: works until the queue of writes is closed and empty. */
void *committer_main(void *service);

#endif
