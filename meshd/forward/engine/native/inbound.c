/* Inbound: from received datagrams to the frame port, in the order of forward/engine/inbound.py.
 *
 *   1. receive: each buffer is cut at the segment size of UDP_GRO
 *   2. type 8 is unwrapped, or passed on (relay.c); what else is not type 4 goes to Python, unread  TRUNCATED, UNKNOWN_VERSION, UNKNOWN_SEGMENT
 *   3. receiver index to key; replay look-up; the first datagram of a key goes to Python  UNKNOWN_INDEX, REPLAYED, TOO_OLD
 *   4. open in place; commit to the replay window                                     BAD_TAG
 *   5. the next segment of the series at hand joins it; of any other datagram all entries are looked at: if each is a frame of a
 *      flow that is cached as local or as dropped, they are delivered or counted here, else Python gets the plaintext
 *   6. a vouched checksum goes on as partial, at the place that the parsed headers have; a vouched TCP segment may begin a
 *      series                                                                         BAD_FRAME
 *   7. write: the parts lie in the receive buffers                                    TAP_DOWN
 *
 * Anything else ends the series first, and so does every way into Python: frames reach the bridge in the order in which they came. */
#include <arpa/inet.h>
#include <net/if.h>
#include <string.h>

#include "engine.h"

static void end_series(struct core *core)
{
    struct iovec *parts;
    core->series_key = NULL;
    core->series_flow = NULL;
    if (!core->series.count)
        return;
    uint32_t frames = core->series.count;
    int count = series_end(&core->series, &parts);
    write_frame(core, parts, count, frames);
}

/* 2: into Python */

static PyObject *relayed_of(struct core *core, const uint8_t *source)
{
    if (core->relayed && memcmp(core->relayed_source, source, SHORT_ID_SIZE) == 0)
        return core->relayed;
    memcpy(core->relayed_source, source, SHORT_ID_SIZE);
    Py_XDECREF(core->relayed);
    core->relayed = PyObject_CallMethod(core->engine, "native_relayed", "(y#)", (const char *)core->relayed_source, (Py_ssize_t)SHORT_ID_SIZE);
    return core->relayed;
}

static PyObject *endpoint_of(struct core *core, const struct received *from)
{
    char host[INET6_ADDRSTRLEN + 1 + IF_NAMESIZE] = "";
    unsigned port;
    if (from->carried_from)
        return relayed_of(core, from->carried_from);
    if (from->endpoint)
        return from->endpoint;
    if (core->source && memcmp(&core->source_address, &from->source, sizeof from->source) == 0)
        return core->source;
    if (from->source.ss_family == AF_INET) {
        const struct sockaddr_in *address = (const struct sockaddr_in *)&from->source;
        inet_ntop(AF_INET, &address->sin_addr, host, sizeof host);
        port = ntohs(address->sin_port);
    } else {
        const struct sockaddr_in6 *address = (const struct sockaddr_in6 *)&from->source;
        inet_ntop(AF_INET6, &address->sin6_addr, host, sizeof host);
        if (address->sin6_scope_id) { /* as Python's sockets name it: fe80::1%eth0 */
            size_t end = strlen(host);
            host[end++] = '%';
            if (!if_indextoname(address->sin6_scope_id, host + end))
                host[end - 1] = 0;
        }
        port = ntohs(address->sin6_port);
    }
    Py_XDECREF(core->source);
    core->source = PyObject_CallMethod(core->engine, "native_endpoint", "(sI)", host, port);
    core->source_address = from->source;
    return core->source;
}

/* Datagrams of one size, the last one perhaps shorter. */
void datagrams_to_python(struct core *core, const struct received *from, const uint8_t *data, uint32_t bytes, uint32_t size)
{
    PyObject *source = endpoint_of(core, from), *done = NULL;
    if (source)
        done = PyObject_CallMethod(core->engine, "native_take", "(y#IOd)", (const char *)data, (Py_ssize_t)bytes, (unsigned)size, source, core->now);
    Py_XDECREF(done);
}

static void hand_over_datagrams(struct core *core, const struct received *from, const uint8_t *data, uint32_t bytes, uint32_t size)
{
    end_series(core);
    if (core->queued) {
        queue_datagrams(core, from, data, bytes, size);
        return;
    }
    bool entered = enter_python(core);
    datagrams_to_python(core, from, data, bytes, size);
    leave_python(core, entered);
}

/* Has something authentic come in under this key? Python sees to the first, and tells a pump that cannot ask (upcalls.c). */
bool is_confirmed(struct core *core, struct receive_key *key)
{
    if (!key->confirmed && !core->queued) {
        bool entered = enter_python(core);
        PyObject *first = PyObject_GetAttrString(key->object, "first");
        key->confirmed = first && PyObject_IsTrue(first) == 0;
        Py_XDECREF(first);
        leave_python(core, entered);
    }
    return key->confirmed;
}

void opened_to_python(struct core *core, const struct received *from, struct receive_key *key, const struct opened *opened, const uint8_t *plain, uint32_t size)
{
    PyObject *source = endpoint_of(core, from), *done = NULL;
    if (source)
        done = PyObject_CallMethod(core->engine, "native_opened", "(OKiiy#Od)", key->object, (unsigned long long)opened->counter, (int)opened->vouched,
                                   (int)opened->newest, (const char *)plain, (Py_ssize_t)size, source, core->now);
    Py_XDECREF(done);
}

static void hand_over_opened(struct core *core, const struct received *from, struct receive_key *key, const uint8_t *header, const uint8_t *plain, uint32_t size)
{
    struct opened opened = {.counter = load_le64(header + 8), .vouched = header[1] & FLAG_VOUCHED};
    opened.newest = opened.counter == key->window->head;
    if (core->queued) {
        queue_opened(core, from, key, &opened, plain, size);
        return;
    }
    bool entered = enter_python(core);
    opened_to_python(core, from, key, &opened, plain, size);
    leave_python(core, entered);
}

_Static_assert(DATA_HEADER_SIZE + ENTRY_HEADER_SIZE >= VNET_SIZE, "no room for the vnet header before a frame");

/* 6–7: deliver. The vnet header is written over what lies before the frame in its own datagram: that has been read. */

static void deliver(struct core *core, struct receive_key *key, struct flow *flow, uint8_t *frame, uint32_t size, bool vouched, bool alone)
{
    struct headers headers;
    uint8_t *start = frame - VNET_SIZE;
    if (!vouched) {
        memset(start, 0, VNET_SIZE);
    } else if (!frame_headers(frame, size, &headers)) {
        count_drop(core, DROP_BAD_FRAME, 1);
        return;
    } else if (alone && series_begin(&core->series, frame, size, &headers)) {
        core->series_key = key;
        core->series_flow = flow;
        return;
    } else {
        partial_vnet(start, &headers, 0);
    }
    struct iovec part = {start, size + VNET_SIZE};
    write_frame(core, &part, 1, 1);
}

/* 5: entries */

struct delivery {
    struct flow *flow;
    uint8_t *frame;
    uint32_t size;
};

/* How many, all of them frames whose flows are known as local or dropped; -1: something else is among them. */
static int look_at_entries(struct core *core, const struct peer *peer, uint8_t *plain, uint32_t size, struct delivery *deliveries)
{
    int count = 0;
    for (uint32_t at = 0; at < size;) {
        if (size - at < ENTRY_HEADER_SIZE || count == MAX_ENTRIES)
            return -1;
        uint32_t length = load_le16(plain + at); /* kind 0: the top bits are zero */
        at += ENTRY_HEADER_SIZE;
        if (length > size - at || length < ETHERNET_SIZE)
            return -1;
        struct flow *flow = flows_find(core->inbound, peer->number, plain + at);
        if (!flow || (flow->action != FLOW_LOCAL && flow->action != FLOW_DROP))
            return -1;
        deliveries[count++] = (struct delivery){flow, plain + at, length};
        at += length;
    }
    return count;
}

static bool joins_series(struct core *core, struct receive_key *key, uint8_t *plain, uint32_t size, bool vouched)
{
    if (!vouched || key != core->series_key || size < ENTRY_HEADER_SIZE || load_le16(plain) != size - ENTRY_HEADER_SIZE)
        return false;
    struct flow *flow = core->series_flow;
    uint8_t *frame = plain + ENTRY_HEADER_SIZE;
    uint32_t length = size - ENTRY_HEADER_SIZE;
    bool last = false;
    if (!series_take(&core->series, frame, length)) {
        last = series_take_last(&core->series, frame, length);
        if (!last)
            return false;
    }
    flow->frames++;
    flow->bytes += length;
    key->peer->frames_in++;
    if (last)
        end_series(core);
    return true;
}

static void opened(struct core *core, const struct received *from, struct receive_key *key, uint8_t *header, uint8_t *plain, uint32_t size)
{
    bool vouched = header[1] & FLAG_VOUCHED;
    struct delivery deliveries[MAX_ENTRIES];
    if (joins_series(core, key, plain, size, vouched))
        return;
    end_series(core);
    int count = look_at_entries(core, key->peer, plain, size, deliveries);
    if (count < 0) {
        hand_over_opened(core, from, key, header, plain, size);
        return;
    }
    for (int i = 0; i < count && !core->failed; i++) {
        struct delivery *to = &deliveries[i];
        key->peer->frames_in++;
        flow_used(core->inbound, to->flow, to->size, core->now);
        if (to->flow->action == FLOW_LOCAL)
            deliver(core, key, to->flow, to->frame, to->size, vouched, count == 1);
        else
            count_drop(core, to->flow->reason, 1);
    }
}

/* 2: not type 4. As many as begin alike are handed over together: relays live by it. */

uint32_t other_datagrams(struct core *core, const struct received *from, const uint8_t *data, uint32_t left)
{
    uint32_t size = left < from->segment ? left : from->segment, bytes = size;
    if (size < 4 || (data[0] & 15) == (DATA_FIRST_BYTE & 15)) {
        count_drop(core, size < 4 || data[0] == DATA_FIRST_BYTE ? DROP_TRUNCATED : DROP_UNKNOWN_VERSION, 1);
        return size;
    }
    while (bytes < left && data[bytes] == data[0])
        bytes += left - bytes < size ? left - bytes : size;
    hand_over_datagrams(core, from, data, bytes, size);
    return bytes;
}

/* 2–4: the next datagram; returns how many bytes that took. */

uint32_t datagram(struct core *core, struct received *from, uint8_t *data, uint32_t left)
{
    uint32_t size = left < from->segment ? left : from->segment;
    if (core->mirrored) {
        hand_over_datagrams(core, from, data, left, size);
        return left;
    }
    if (data[0] == RELAY_FIRST_BYTE)
        return relay_datagram(core, from, data, left);
    if (core->run.count)
        relay_flush(core);
    if (size < DATA_OVERHEAD || data[0] != DATA_FIRST_BYTE)
        return other_datagrams(core, from, data, left);
    if (load_le16(data + 2)) {
        count_drop(core, DROP_UNKNOWN_SEGMENT, 1);
        return size;
    }
    struct receive_key *key = find_key(core, load_le32(data + 4));
    if (!key) {
        count_drop(core, DROP_UNKNOWN_INDEX, 1);
        return size;
    }
    if (!is_confirmed(core, key)) {
        hand_over_datagrams(core, from, data, size, size);
        return size;
    }
    uint64_t counter = load_le64(data + 8);
    enum replay verdict = replay_check(key->window, counter);
    if (verdict != REPLAY_NEW) {
        count_drop(core, verdict == REPLAY_DUPLICATE ? DROP_REPLAYED : DROP_TOO_OLD, 1);
        return size;
    }
    uint8_t nonce[AEAD_NONCE_SIZE] = {0};
    memcpy(nonce + 4, data + 8, 8);
    uint8_t *body = data + DATA_HEADER_SIZE;
    uint32_t hidden = size - DATA_OVERHEAD;
    if (!key->aead->open(key->aead, nonce, data, DATA_HEADER_SIZE, body, hidden, body + hidden)) {
        count_drop(core, DROP_BAD_TAG, 1);
        return size;
    }
    replay_commit(key->window, counter);
    key->bytes += size;
    key->peer->last_heard = core->now;
    opened(core, from, key, data, body, hidden);
    return size;
}

bool pump_datagrams(struct core *core, struct port *port)
{
    int64_t started = nanoseconds(core), deadline = started + turn_of(core);
    int64_t budget = PUMP_BYTES;
    bool alone = is_first(core, &port->pause, started) && port->fd >= 0, more = false;
    core->next_buffer = 0;
    port->in_vain++;
    while (!core->failed) {
        if (!core->series.count) /* else its segments lie in the buffers before */
            core->next_buffer = 0;
        if (core->next_buffer == RECEIVE_BUFFERS) {
            end_series(core);
            core->next_buffer = 0;
        }
        int first = core->next_buffer, count = receive_datagrams(core, port, first, RECEIVE_BUFFERS - first);
        if (count <= 0)
            break;
        port->in_vain = 0;
        core->next_buffer += count;
        for (int i = first; i < first + count && !core->failed; i++) {
            struct received *from = &core->received[i];
            budget -= from->size;
            for (uint32_t at = 0; at < from->size && !core->failed;)
                at += datagram(core, from, from->data + at, from->size - at);
            relay_flush(core);
        }
        core->moved_at = nanoseconds(core);
        if (core->drained)
            break;
        if (alone || budget <= 0 || is_wanted(core) || core->moved_at >= deadline) {
            more = true;
            break;
        }
    }
    end_series(core);
    lanes_flush(core);
    return more;
}
