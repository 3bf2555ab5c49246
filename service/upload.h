/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* upload.h - what the committer needs of uploads; their handlers stand in front.h. */
#ifndef SERVICE_UPLOAD_H
#define SERVICE_UPLOAD_H

#include "task.h"

/* In the committer: commits the upload of the task, or says in the task why not. The writer is gone afterwards. */
void upload_do_commit(service *s, task *t);

#endif
