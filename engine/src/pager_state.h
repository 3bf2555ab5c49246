/* SPDX-License-Identifier: LGPL-3.0-or-later */
/* pager_state.h - the pager's own data, shared by pager.c (pages, versions), pager_cache.c (clean frames),
 * space.c (groups, free space) and checkpoint.c. */
#ifndef SDB_PAGER_STATE_H
#define SDB_PAGER_STATE_H

#include "pager.h"

enum {
  READER_SLOTS = 128,
  STAGE_BYTES = 2 << 20, /* of pages, on their way to the file */
  PACE_BYTES = 1 << 20,  /* of writes, before they are sent to the device */
  SPARE_BUFFERS = 256,
  STOCK_TOUCH = 4096, /* no page of a system is smaller */
  CACHE_USES = 3,
  HIT_COUNTERS = 16,
  DELETE_RESERVE = 64, /* pages */
  PLACE_RUNS = 64
};

/* One version of one logical page. */
struct frame {
  uint64_t version;            /* that made it; 0: as the file had it */
  struct frame *_Atomic older; /* predecessor that somebody may still read, NULL: none. Views below `version` look there */
  struct frame *newer;         /* successor, once there is one */
  uint8_t *_Atomic data;       /* NULL: read at `place` */
  uint32_t number;             /* logical page */
  uint32_t place;              /* physical page, 0: not on disk */
  uint8_t kind;                /* PAGE_FREE: the page was freed by `version` */
  bool dirty;                  /* in the dirty list: its place is not written */
  bool ahead;                  /* in that list among the heap pages at its beginning */
  bool in_ring;
  bool settling, held;       /* in that list */
  bool leaving;              /* counted in frames_leaving */
  bool writing;              /* its bytes are on their way to the file: neither changed nor freed */
  _Atomic uint8_t uses;      /* since the cache's hand came by, up to CACHE_USES */
  struct frame *prev, *next; /* dirty list, settling list, or retired list */
  struct frame *ring_prev, *ring_next;
  struct frame *old_prev, *old_next; /* list of superseded frames, in the order of `superseded` */
  uint64_t superseded;               /* by that version; views from `version` up to there read this frame */
  uint64_t stamp;                    /* epoch of retirement */
};

struct frame_list {
  struct frame *first, *last;
  uint32_t ahead; /* how many heap pages at its beginning */
};

struct map_chunk {
  uint32_t used;    /* words in use, as the writer sees it */
  bool dirty;       /* some word's place, kind or live bytes differ from the last checkpoint */
  bool behind;      /* `live` has changed since the running checkpoint began */
  uint32_t *places; /* of the pages in the last complete checkpoint, 0: none. From memory: the chunk on the device may go bad */
  uint32_t *next;   /* the same of the checkpoint that runs, when it has written the chunk */
  uint16_t *live;   /* heap pages: live bytes / 8 */
  uint16_t *stored; /* with `behind`: the same in the state that the checkpoint stands for */
  _Atomic uint64_t word[];
};

struct bitmap {
  uint8_t *used; /* what the roots reach: goes to disk */
  uint8_t *busy; /* used, or held in memory: not to be allocated */
  uint8_t *hole; /* free, but the device may have taken the space back: busy until it is filled again */
  uint32_t holes;
  uint32_t available; /* pages of the file that are not busy */
  bool dirty;
};

struct group {
  const void *_Atomic window; /* mapping of the group, NULL: none yet */
  uint8_t *dir;               /* as of the last complete checkpoint */
  struct map_chunk *_Atomic *maps;
  struct bitmap **bitmaps;
  _Atomic uint8_t *_Atomic verified; /* a bit a physical page: its checksum was seen to hold */
};

struct limbo_run {
  run r;
  uint64_t version; /* that freed it; while cooling: the epoch to pass */
};

struct run_queue {
  struct limbo_run *items;
  size_t head, count, cap;
};

/* Pages on their way to the file. */
struct batch {
  struct frame *frames[STAGE_BYTES / 4096];
  uint32_t count;
  run runs[PLACE_RUNS]; /* where the first of them go, one run after the other */
  uint32_t run_count;
  uint32_t written; /* so many of the runs stand in the file */
};

/* Changes of used pages that belong to commits behind a running checkpoint. */
struct delta {
  run r;
  bool use;
};

struct pending_entry {
  uint32_t group; /* MAX_GROUPS + i: root directory page i */
  uint32_t index; /* MAP and bitmap entries of the group; UINT32_MAX: the group directory itself */
  dir_entry entry;
};

struct mark {
  uint32_t place;
  bool was_used;
};

struct pin {
  uint64_t view;
  uint64_t sequence; /* last commit that it contains */
  uint64_t since_us; /* when it was pinned first */
  uint32_t count;
};

/* A part of the data file in which `bytes` were written. */
struct span {
  uint64_t from, to, bytes;
};

/* Clean pages that the writer has read in this stay, by number: a hash table with linear probing, entries of another turn are free.
 * What is evicted keeps its memory until the stay ends, so it is enough to know where it is. */
enum { KEPT_FIRST = 64 };
struct kept {
  struct kept_page {
    uint32_t number, place;
    uint64_t turn;
    const uint8_t *data;
  } * pages, first[KEPT_FIRST];
  size_t cap, count;
  uint64_t turn;
  bool on;
};

struct pager {
  env *e;
  sdb_file *file;
  geometry g;
  header head; /* last complete checkpoint */
  pager_config config;
  unsigned slot;                /* which one counted when it was opened */
  bool unsettled;               /* the other may not say the same, or not durably */
  cipher *cipher;               /* NULL: not encrypted; the surroundings point at it */
  atomic_bool mapped;           /* ends with the first fault: then every page is read, and only those that cannot be are errors */
  _Atomic uint64_t faults;      /* mapped pages that the device could not give */
  _Atomic uint32_t cache_pages; /* what is left of the configured cache for pages */

  struct fair lock;       /* the writer's */
  bool room_kept;         /* page_keep_room was called since it was taken */
  struct kept kept;       /* the writer's too */
  struct mutex load_lock; /* loading of groups and chunks; inside `lock`, never around it */
  struct mutex ring_lock; /* clean frames in the cache */
  struct mutex pin_lock;
  struct mutex sync_lock; /* of the data file */
  struct mutex quarantine_lock;
  struct quarantined *quarantine; /* by rising place */
  size_t quarantine_cap;
  _Atomic size_t quarantine_count;
  atomic_bool sync_owed; /* contents were written that a log record is going to name */

  /* Writes to the data file since the device was last told to begin with them, and what it was told then. */
  struct mutex pace_lock;
  struct span paced, begun;

  struct group *_Atomic *groups; /* MAX_GROUPS */
  _Atomic uint32_t group_limit;  /* those in use are below */
  uint8_t *root_dir;             /* R pages, as of the last complete checkpoint */
  bool root_loaded[MAX_ROOT_PAGES];

  /* versions */
  _Atomic uint64_t published;
  uint64_t open_version; /* collects changes; published < open_version */
  bool open_used;
  uint32_t open_copies;        /* pages in memory that it has changed, whose older copies go when it is published */
  uint64_t floor;              /* version of the checkpoint begun last: frames at or below it may not be appended to */
  uint64_t published_sequence; /* with `published`, under pin_lock */
  struct pin *pins;            /* by rising view */
  size_t pin_count, pin_cap;
  uint64_t open_pins;

  _Atomic uint64_t epoch;
  struct reader_slot {
    _Atomic uint64_t epoch; /* 0: nobody */
    _Atomic uint64_t floor; /* no older view is read here; 0 while it is being found out */
    uint64_t faults;        /* when it was entered */
    char apart[104];        /* two cache lines a slot: the allocator aligns to 16 bytes only */
  } readers[READER_SLOTS];

  /* frames */
  struct frame_list dirty;    /* heap pages, then the others, oldest first: the order in which they are written ahead */
  struct frame_list graves;   /* freed pages: nothing to write, so they fill neither cache nor reserve */
  struct frame_list settling; /* written, or freed pages, that older views may still look behind */
  struct frame_list buried;   /* freed pages whose words stay until a checkpoint is complete */
  uint64_t buried_for;        /* checkpoint_version when that list was looked at */
  struct frame_list held;     /* clean, and only younger than a pin or the checkpoint: a word would not say since when the page is
                                 as it is */
  uint64_t held_for;          /* the oldest pin when that list was looked at; 0: look again */
  struct frame *old_first, *old_last;
  uint64_t old_count;
  uint64_t reclaim_from;     /* under pin_lock: what was superseded up to there is needed by a pin, or gone */
  struct frame_list retired; /* waiting for readers to leave */
  struct mutex retire_lock;
  uint8_t *spare[SPARE_BUFFERS];
  _Atomic unsigned spares; /* changed under retire_lock */
  uint32_t dirty_count;
  uint32_t append_page;            /* the heap page that grows: not worth writing ahead */
  _Atomic uint32_t frames_held;    /* frames with data */
  _Atomic uint32_t frames_leaving; /* those of them that are retired */
  struct frame *ring_hand;
  struct hit_counter {
    _Atomic uint64_t hits;
    char apart[120]; /* counted on every read: threads must not share a cache line */
  } hits[HIT_COUNTERS];
  _Atomic uint64_t misses;

  /* space */
  _Atomic uint64_t pages_total;   /* of the file now */
  uint64_t available;             /* not busy */
  uint64_t holes;                 /* of the loaded bitmaps */
  uint64_t unloaded;              /* free pages of bitmaps that are not loaded: some may be holes */
  uint32_t load_next, punch_next; /* bitmap chunks: none below to be loaded; those below are to be looked through for punching */
  uint64_t unused;                /* not used */
  uint64_t freed;                 /* pages that became available when the last checkpoint ended */
  uint64_t turnover;              /* the less of that and of the one before: what will be taken again */
  uint64_t punch_keep;            /* pages to be left */
  uint64_t logical_limit;
  bool refused;           /* somebody was told that the file is full: a checkpoint may free what waits for one */
  uint32_t single_hint;   /* where the last single page was found */
  uint32_t number_hint;   /* no free logical page below */
  struct run_queue limbo; /* runs that views may still read: until pins and a checkpoint have passed */
  struct run_queue spent; /* pages that no view reads: until a checkpoint has passed */
  struct run_queue cooling;
  unsigned frozen;         /* copies being made */
  uint64_t frozen_version; /* what later versions free waits for them */
  struct delta *deltas;
  size_t delta_count, delta_cap;

  uint8_t *orphans; /* a bit a physical page below the limit; NULL: nobody looks for any */
  uint64_t orphans_limit;

  uint8_t *doomed; /* a bit a logical page below the limit; NULL: no sweep */
  uint32_t doomed_limit;

  /* checkpoint */
  struct checkpoint {
    bool active, trim;
    uint64_t version; /* C */
    uint64_t number;
    roots r;
    struct frame_list to_write, graves;
    unsigned phase;
    uint32_t group, chunk;
    struct pending_entry *pending; /* what the directories will say when it is complete */
    size_t pending_count, pending_cap;
    struct mark *marks; /* changes of `used`, to take back when it fails */
    size_t mark_count, mark_cap;
    header head;
  } cp;
  uint64_t checkpoint_version; /* C of the last complete one */
  struct batch ahead;
  uint8_t *stage; /* STAGE_BYTES, for pages on their way to the file */
};

/* A map word that is not a frame. Bit 0 tells them apart; frames are aligned. */
static inline uint64_t word_place(uint32_t place, uint8_t kind) { return (uint64_t)place << 32 | (uint64_t)kind << 8 | 1; }
static inline bool word_is_place(uint64_t w) { return w & 1; }
static inline uint32_t place_of(uint64_t w) { return (uint32_t)(w >> 32); }
static inline uint8_t kind_of(uint64_t w) { return (uint8_t)(w >> 8); }
static inline struct frame *frame_of(uint64_t w) { return (struct frame *)(uintptr_t)w; }
static inline uint64_t word_frame(const struct frame *f) { return (uint64_t)(uintptr_t)f; }

static inline bool bit_get(const uint8_t *bits, uint32_t i) { return bits[i >> 3] >> (i & 7) & 1; }
static inline void bit_set(uint8_t *bits, uint32_t i) { bits[i >> 3] |= (uint8_t)(1u << (i & 7)); }
static inline void bit_clear(uint8_t *bits, uint32_t i) { bits[i >> 3] &= (uint8_t) ~(1u << (i & 7)); }

/* space.c */
int group_get(pager *p, uint32_t index, struct group **out);                      /* loads the directory on first use */
int map_get(pager *p, uint32_t number, struct map_chunk **chunk, uint32_t *slot); /* loads the chunk on first use */
int bitmap_get(pager *p, uint32_t physical, struct bitmap **b, uint32_t *bit);
int root_dir_load(pager *p, uint32_t index);
uint32_t bitmap_index(const pager *p, uint32_t physical, uint32_t *bit);      /* counted over all groups */
void bitmap_span(const pager *p, uint32_t n, uint64_t *first, uint64_t *end); /* pages that it covers and the file has */
uint64_t space_reserve(const pager *p); /* pages for the next checkpoint and for deletes on a full device */
int space_alloc(pager *p, uint32_t want, uint32_t least, run *r); /* reserves; grows the file */
void space_unreserve(pager *p, run r);
void space_mark(pager *p, run r, bool used); /* in the state of the checkpoint */
void space_release(pager *p, run r, uint64_t version);
void space_release_page(pager *p, uint32_t place, uint64_t version); /* no view needs it any more */
void space_reclaim(pager *p);                                        /* limbo -> cooling -> available */
void space_fold(pager *p);                                           /* applies the deltas when no checkpoint runs */
void space_live_fold(pager *p); /* the checkpoint has ended: live bytes are stored as they are */
void space_shrink(pager *p);
uint64_t space_free(const pager *p); /* pages, whatever must be done before they can be used */
int space_ensure_group(pager *p, uint32_t group);
void space_forget_verified(pager *p, run r);
void space_set_verified(pager *p, uint32_t physical);
bool space_is_verified(pager *p, uint32_t physical);
const uint8_t *space_window(pager *p, uint32_t physical, uint64_t offset); /* NULL: not mapped */

/* pager.c */
uint64_t pins_oldest(pager *p);                  /* the oldest view anybody may read */
uint64_t unpinned_oldest(pager *p);              /* the same, but for pinned views and the one of a checkpoint that runs */
void frames_look_again(pager *p, uint64_t view); /* nobody needs the view any more */
uint64_t epoch_oldest(pager *p);
uint64_t epoch_advance(pager *p);
void frames_reclaim(pager *p);
struct frame *frame_new(pager *p, uint32_t number, uint8_t kind, bool with_data);
void frame_discard(pager *p, struct frame *f); /* nobody has seen it */
void frame_retire(pager *p, struct frame *f);  /* only readers that are inside now may still see it */
int page_verify(pager *p, const uint8_t *bytes, uint32_t number, uint32_t place, uint8_t kind);
void frame_settle(pager *p, struct frame *f, uint64_t oldest); /* f was written or is a freed page; tries to make it a word */
void frames_settle_all(pager *p);
void dirty_push(struct frame_list *l, struct frame *f);
void list_push(struct frame_list *l, struct frame *f);
void list_remove(struct frame_list *l, struct frame *f);

/* pager_cache.c: without mapping, clean pages stay in memory as frames. */
int cache_fill(pager *p, uint32_t number, uint32_t place, uint8_t kind, uint8_t *buf); /* the page from the device, verified */
/* A clean page enters the cache as the frame of its word. SDB_END: the word has changed meanwhile, look again. */
/* Notes a clean page that the writer has read; where it was noted, NULL: it was not. Writer's lock held, p->kept.on. */
int kept_add(pager *p, uint32_t number, uint32_t place, const uint8_t *data);
const uint8_t *kept_find(pager *p, uint32_t number, uint32_t place);
int cache_load(pager *p, _Atomic uint64_t *word, uint64_t w, uint32_t number, const uint8_t **page);
/* An older version whose bytes are only on disk. */
int cache_load_older(pager *p, struct frame *f, const uint8_t **page);
void cache_add(pager *p, struct frame *f);
void cache_remove(pager *p, struct frame *f); /* if it is there */
void cache_bound(pager *p);                   /* evicts until clean and dirty frames are as many as allowed */
static inline void cache_hit(pager *p, struct frame *f) {
  uint8_t uses = atomic_load_explicit(&f->uses, memory_order_relaxed);
  if (uses < CACHE_USES) atomic_store_explicit(&f->uses, (uint8_t)(uses + 1), memory_order_relaxed);
  uintptr_t hint = thread_hint();
  atomic_fetch_add_explicit(&p->hits[(hint >> 12 ^ hint >> 20) % HIT_COUNTERS].hits, 1, memory_order_relaxed);
}

#endif
