/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* workers.h - the threads for what takes longer: streams, uploads, searches, large reads. */
#ifndef SERVICE_WORKERS_H
#define SERVICE_WORKERS_H

/* Thread body, with the service as argument: runs jobs until the queue is closed and empty. */
void *worker_main(void *service);

#endif
