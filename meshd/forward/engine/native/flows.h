/* Flows by (slot, destination MAC, source MAC): a bounded hash table, least recently used first.
 *
 * Beside that, flows hang in two tables by MAC, by destination and by source, so that finding or voiding those of a MAC looks at its
 * two buckets alone.
 *
 * A flow is the Python object that the verdict was put into; what the packet path needs of it is copied beside it when it is
 * added (`action`, `peer`), and what the packet path counts is kept beside it until somebody asks. */
#ifndef MESHD_FLOWS_H
#define MESHD_FLOWS_H

#include "bytes.h"
#include "python.h"

enum { ADDRESSES_SIZE = 12, MAX_DROP_REASONS = 128 };
enum flow_action { FLOW_PYTHON, FLOW_LOCAL, FLOW_DROP, FLOW_PEER };

struct peer;

/* A place in the list of one bucket; `at` is what points to it. */
struct by_mac {
    struct flow *next, **at;
};

enum { BY_DESTINATION, BY_SOURCE, ENDS };

struct flow {
    uint32_t slot; /* of the peer that it comes from; 0 outbound */
    uint8_t addresses[ADDRESSES_SIZE];
    uint32_t behind; /* captures of it that wait for Python: those after them wait too … */
    bool overtaken;  /* … unless there were so many that they would never end: until none waits */
    uint8_t action, reason;
    struct peer *peer;
    PyObject *object;
    uint64_t frames, bytes; /* since they were added to the object's own */
    double last_used;
    struct flow *next;            /* of the same bucket */
    struct flow *older, *younger; /* by use */
    struct by_mac ends[ENDS];
};

struct flow_table {
    PyObject_HEAD
    struct flow **buckets, **macs[ENDS]; /* all of one size */
    uint32_t mask, count, limit;
    uint64_t looked_at; /* flows, to find or void MACs: tests hold it to what is there */
    uint64_t seed[2];
    struct flow use; /* its `younger` is the oldest, its `older` the youngest */
};

/* An empty table for at most `limit` flows; false: no memory. */
bool flows_prepare(struct flow_table *table, uint32_t limit);

/* Forget everything and give the memory back. */
void flows_release(struct flow_table *table);

struct flow *flows_find(struct flow_table *table, uint32_t slot, const uint8_t *addresses);

/* A new flow, in place of one with the same key; at the limit, in place of the one that was used longest ago. The caller fills in
 * `object`, `peer` and `action`. NULL: no memory. */
struct flow *flows_add(struct flow_table *table, uint32_t slot, const uint8_t *addresses);

void flows_forget(struct flow_table *table, struct flow *flow);

/* The next flow that has this MAC at this end, in no order; `after` NULL: the first. */
struct flow *flows_next(struct flow_table *table, int end, const uint8_t *mac, const struct flow *after);

/* Forget the flows that have this MAC at either end; how many. */
uint32_t flows_void(struct flow_table *table, const uint8_t *mac);

/* It is the youngest now. */
void flow_touch(struct flow_table *table, struct flow *flow);

/* This flow was used now, by a frame of so many bytes. */
void flow_used(struct flow_table *table, struct flow *flow, uint32_t bytes, double now);

/* flow_table.c: the type FlowTable */
extern PyTypeObject *flow_table_type;

/* NULL with an exception. */
PyTypeObject *make_flow_table_type(void);

#endif
