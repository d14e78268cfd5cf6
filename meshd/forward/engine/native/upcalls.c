/* What a pump in a thread of its own cannot do without Python waits here, copied, until the loop takes it (`Core.take_upcall`).
 *
 * Two queues of records, one for each direction, so that a container that invents addresses keeps no probe from being read. What
 * finds its queue full is dropped (QUEUE_FULL). Everything here happens under the core's lock.
 *
 * Frames of one flow leave in the order of capture: while one of them waits here, those behind it come here too (`flow.behind`), up to
 * MAX_BEHIND. Then the ones that C can move go past them, once: else a bulk transfer behind one odd frame would stay Python's until it
 * pauses. Those that came before their flow was known are counted when it is: among the first MAX_LOOKED_AT records, or a flood of
 * invented addresses would make every verdict dear.
 *
 * A queue is a ring of records, each in one piece: | struct upcall | bytes | padding to 16 |; where the next one does not fit before
 * the end of the memory, a record without kind fills the rest. */
#include <errno.h>
#include <stdlib.h>

#include "engine.h"

enum upcall_kind { UPCALL_NOTHING, UPCALL_CAPTURE, UPCALL_DATAGRAMS, UPCALL_OPENED };

enum { ALIGNMENT = 16, MAX_LOOKED_AT = 256 };

struct upcall {
    uint32_t room; /* of the whole record */
    uint8_t kind;  /* up to here it is there in a record without kind, too */
    bool carried; /* it came in a relayed datagram, from `carried_from` */
    uint8_t carried_from[SHORT_ID_SIZE];
    uint32_t index, size, bytes; /* receiver index; size of each datagram; of what follows */
    struct opened opened;
    PyObject *endpoint; /* of a port without a descriptor */
    struct sockaddr_storage source;
};

static uint32_t room_for(uint32_t bytes)
{
    return (uint32_t)(sizeof(struct upcall) + bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

bool queues_prepare(struct core *core)
{
    for (int i = 0; i < UPCALL_QUEUES; i++) /* touched, and so real memory, only as far as it fills */
        if (!(core->upcalls[i].memory = aligned_alloc(ALIGNMENT, UPCALL_QUEUE_SIZE)))
            return false;
    return true;
}

static struct upcall *record_at(const struct upcall_queue *queue, uint32_t at)
{
    return (struct upcall *)(void *)(queue->memory + at);
}

/* A new last record; NULL: the queue is full. */
static struct upcall *append(struct upcall_queue *queue, uint32_t bytes)
{
    uint32_t room = room_for(bytes), to_end;
    if (!queue->used)
        queue->head = queue->tail = 0;
    to_end = UPCALL_QUEUE_SIZE - queue->head;
    if (queue->head >= queue->tail && room > to_end) {
        if (queue->used + to_end + room > UPCALL_QUEUE_SIZE)
            return NULL;
        struct upcall *rest = record_at(queue, queue->head);
        rest->room = to_end;
        rest->kind = UPCALL_NOTHING;
        queue->used += to_end;
        queue->head = 0;
    }
    if (queue->used + room > UPCALL_QUEUE_SIZE)
        return NULL;
    struct upcall *upcall = record_at(queue, queue->head);
    memset(upcall, 0, sizeof *upcall);
    upcall->room = room;
    upcall->bytes = bytes;
    queue->used += room;
    queue->head = (queue->head + room) % UPCALL_QUEUE_SIZE;
    return upcall;
}

static void remove_first(struct upcall_queue *queue, const struct upcall *upcall)
{
    queue->used -= upcall->room;
    queue->tail = (queue->tail + upcall->room) % UPCALL_QUEUE_SIZE;
}

/* The oldest record that has a kind; NULL: there is none. */
static struct upcall *first(struct upcall_queue *queue)
{
    while (queue->used) {
        struct upcall *upcall = record_at(queue, queue->tail);
        if (upcall->kind != UPCALL_NOTHING)
            return upcall;
        remove_first(queue, upcall);
    }
    return NULL;
}

static uint8_t *data_of(struct upcall *upcall) { return (uint8_t *)(upcall + 1); }

/* From the packet path */

/* A record of what came from somewhere; counts the drop where there is no room. */
static struct upcall *append_received(struct core *core, const struct received *from, enum upcall_kind kind, const uint8_t *data, uint32_t bytes, uint32_t count)
{
    struct upcall *upcall = append(&core->upcalls[UPCALLS_INBOUND], bytes);
    if (!upcall) {
        count_drop(core, DROP_QUEUE_FULL, count);
        return NULL;
    }
    upcall->kind = (uint8_t)kind;
    upcall->source = from->source;
    if (from->endpoint) {
        bool entered = enter_python(core);
        upcall->endpoint = Py_NewRef(from->endpoint);
        leave_python(core, entered);
    }
    upcall->carried = from->carried_from != NULL;
    if (upcall->carried)
        memcpy(upcall->carried_from, from->carried_from, SHORT_ID_SIZE);
    memcpy(data_of(upcall), data, bytes);
    return upcall;
}

void queue_datagrams(struct core *core, const struct received *from, const uint8_t *data, uint32_t bytes, uint32_t size)
{
    struct upcall *upcall = append_received(core, from, UPCALL_DATAGRAMS, data, bytes, (bytes + size - 1) / size);
    if (upcall)
        upcall->size = size;
}

void queue_opened(struct core *core, const struct received *from, const struct receive_key *key, const struct opened *opened, const uint8_t *plain, uint32_t size)
{
    struct upcall *upcall = append_received(core, from, UPCALL_OPENED, plain, size, 1);
    if (!upcall)
        return;
    upcall->index = key->index;
    upcall->opened = *opened;
}

/* Where to write the capture to; NULL, and counted: the queue is full. `flow`: the cached one, or NULL. */
uint8_t *queue_capture(struct core *core, struct flow *flow, uint32_t size)
{
    struct upcall *upcall = append(&core->upcalls[UPCALLS_OUTBOUND], size);
    if (!upcall) {
        count_drop(core, DROP_QUEUE_FULL, 1);
        return NULL;
    }
    upcall->kind = UPCALL_CAPTURE;
    if (flow && ++flow->behind >= MAX_BEHIND)
        flow->overtaken = true;
    return data_of(upcall);
}

bool upcalls_wait(const struct core *core)
{
    return core->frames_error || core->upcalls[UPCALLS_INBOUND].used || core->upcalls[UPCALLS_OUTBOUND].used;
}

/* On the loop */

/* How many of these captures wait, MAX_BEHIND at most; the one that Python has just looked at is among them. */
static uint32_t captures_waiting(const struct core *core, const uint8_t *addresses)
{
    const struct upcall_queue *queue = &core->upcalls[UPCALLS_OUTBOUND];
    uint32_t found = 0, at = queue->tail, passed = 0;
    for (int i = 0; i < MAX_LOOKED_AT && passed < queue->used && found < MAX_BEHIND; i++) {
        struct upcall *upcall = record_at(queue, at);
        found += upcall->kind == UPCALL_CAPTURE && memcmp(data_of(upcall) + VNET_SIZE, addresses, ADDRESSES_SIZE) == 0;
        passed += upcall->room;
        at = (at + upcall->room) % UPCALL_QUEUE_SIZE;
    }
    return found;
}

static void give_capture(struct core *core, const uint8_t *data, uint32_t bytes)
{
    const uint8_t *addresses = data + VNET_SIZE; /* a capture has them, or it would not be here */
    bool known = flows_find(core->outbound, 0, addresses) != NULL;
    PyObject *copy = PyByteArray_FromStringAndSize((const char *)data, (Py_ssize_t)bytes);
    if (copy)
        capture_to_python(core, copy);
    Py_XDECREF(copy);
    struct flow *flow = flows_find(core->outbound, 0, addresses);
    if (flow && !known) {
        flow->behind = captures_waiting(core, addresses);
        flow->overtaken = flow->behind >= MAX_BEHIND;
    }
    if (flow && flow->behind && !--flow->behind) /* 0 before: more waited than were looked at */
        flow->overtaken = false;
}

static void give(struct core *core, struct upcall *upcall)
{
    struct received from = {
        .source = upcall->source, .endpoint = upcall->endpoint, .carried_from = upcall->carried ? upcall->carried_from : NULL};
    uint8_t *data = data_of(upcall);
    struct receive_key *key;
    switch ((enum upcall_kind)upcall->kind) {
    case UPCALL_CAPTURE:
        give_capture(core, data, upcall->bytes);
        break;
    case UPCALL_DATAGRAMS:
        datagrams_to_python(core, &from, data, upcall->bytes, upcall->size);
        leave_python(core, false);
        if (upcall->size >= DATA_OVERHEAD && (key = find_key(core, load_le32(data + 4))))
            is_confirmed(core, key); /* the packet path has to be told: it cannot ask */
        break;
    case UPCALL_OPENED:
        key = find_key(core, upcall->index);
        if (key)
            opened_to_python(core, &from, key, &upcall->opened, data, upcall->bytes);
        else
            count_drop(core, DROP_UNKNOWN_INDEX, 1);
        break;
    case UPCALL_NOTHING:
        break;
    }
    leave_python(core, false);
    Py_CLEAR(upcall->endpoint);
}

/* The oldest of one direction, by turns; false: nothing waits. The record stays where it is until Python has it: nobody appends
 * over what is not removed. */
bool give_upcall(struct core *core)
{
    for (int i = 0; i < UPCALL_QUEUES; i++) {
        struct upcall_queue *queue = &core->upcalls[core->next_queue];
        core->next_queue = (core->next_queue + 1) % UPCALL_QUEUES;
        struct upcall *upcall = first(queue);
        if (upcall) {
            give(core, upcall);
            remove_first(queue, upcall);
            return true;
        }
    }
    return false;
}

void queues_release(struct core *core)
{
    for (int i = 0; i < UPCALL_QUEUES; i++) {
        struct upcall_queue *queue = &core->upcalls[i];
        for (struct upcall *upcall; queue->memory && (upcall = first(queue)); remove_first(queue, upcall))
            Py_XDECREF(upcall->endpoint);
        free(queue->memory);
    }
}
