/* Outbound: from the frame port into sealed datagrams, in the order of forward/engine/outbound.py.
 *
 *   1. read: vnet header and frame, scattered so that the payload of each segment of the super-frame that we expect (like the last
 *      one) lies where it will be sealed; runts go                                                  BAD_FRAME
 *   2. flow lookup by destination and source MAC; a cached drop is counted                          (its reason)
 *   3. a flow to a peer that we may send to ourselves:
 *      a. a super-frame that says what it is: headers before each segment, seal, send               QUEUE_FULL, SEND_FAILED, TOO_BIG
 *      b. a single frame that fits the path, its checksum complete or where the headers say: into the peer's lane
 *   4. anything else goes to Python as it was captured: no flow, floods, no key, no path, what does not fit, what lies
 *
 * Layout of the capture: slots of one datagram each, so that after sealing they are one buffer of equal datagrams.
 *
 *   | header 16 | entry 2 | frame headers | payload | tag 16 | header 16 | entry 2 | frame headers | payload | tag 16 | …
 *       └ vnet 10 ┘       └ what was captured ──────┘                                              └ … and on ┘
 *
 * Where the peer is reached through another one, 36 bytes more lie before each header and 16 behind each tag, for type 8. */
#include <stdlib.h>

#include "engine.h"

enum {
    FRAME_AT = DATA_HEADER_SIZE + ENTRY_HEADER_SIZE, /* of a slot */
    VNET_AT = FRAME_AT - VNET_SIZE,
    MIN_CAPTURE = VNET_SIZE + ETHERNET_SIZE,
    MIN_PREDICTED = 500, /* below, there would be more parts than MAX_CAPTURE_PARTS */
    SLOT_OVERHEAD = FRAME_AT + AEAD_TAG_SIZE,
    FORGET_AFTER = 16, /* small frames in a row: they come quicker with one part to fill */
};

_Static_assert(MAX_CAPTURE / MIN_PREDICTED + 2 < MAX_CAPTURE_PARTS, "a capture of small segments has too many parts");
_Static_assert((int)MIN_PREDICTED >= (int)MAX_HEADERS, "the headers of a super-frame may lie beyond its first part");
_Static_assert(MAX_SEND_BYTES >= SLOT_OVERHEAD + RELAY_OVERHEAD + MAX_ENTRY_SIZE, "one datagram may be more than one send");
_Static_assert(CAPTURE_SIZE > MAX_CAPTURE + (MAX_CAPTURE / MIN_PREDICTED + 2) * (SLOT_OVERHEAD + RELAY_OVERHEAD + MAX_HEADERS), "no room for headers");

static inline uint32_t slot_size(const struct core *core) { return SLOT_OVERHEAD + core->predicted_wrapping + core->predicted_head + core->predicted_size; }

static void lay_out(struct core *core)
{
    uint32_t head = core->predicted_head, size = core->predicted_size, reached;
    uint8_t *slot = core->capture;
    if (!size) {
        core->parts[0] = (struct iovec){slot + VNET_AT, MAX_CAPTURE};
        core->part_count = 1;
        return;
    }
    core->parts[0] = (struct iovec){slot + VNET_AT, VNET_SIZE + head + size};
    int count = 1;
    for (reached = VNET_SIZE + head + size; reached < MAX_CAPTURE; reached += size) {
        slot += slot_size(core);
        core->parts[count++] = (struct iovec){slot + FRAME_AT + head, size};
    }
    core->part_count = count;
}

/* Copy a scattered capture out. */
static void gather(const struct core *core, uint8_t *into, size_t size)
{
    for (int i = 0; size; i++) {
        size_t piece = size < core->parts[i].iov_len ? size : core->parts[i].iov_len;
        memmove(into, core->parts[i].iov_base, piece); /* to the front, part by part: nothing that is still needed is overwritten */
        into += piece;
        size -= piece;
    }
}

void capture_to_python(struct core *core, PyObject *capture)
{
    PyObject *done = PyObject_CallMethod(core->engine, "native_capture", "(Od)", capture, core->now);
    Py_XDECREF(done);
}

static void hand_over(struct core *core, struct flow *flow, size_t size)
{
    if (core->queued) {
        uint8_t *into = queue_capture(core, flow, (uint32_t)size);
        if (into)
            gather(core, into, size);
        return;
    }
    bool entered = enter_python(core);
    PyObject *copy = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (copy) {
        gather(core, (uint8_t *)PyByteArray_AsString(copy), size);
        capture_to_python(core, copy);
    }
    Py_XDECREF(copy);
    leave_python(core, entered);
}

/* 3a: Put each payload of a super-frame that lies in one piece where it would lie if we had known. From the last one back, as
 * each moves to a higher place. */
static void spread(uint8_t *frame, uint32_t head, uint32_t payload, uint32_t size, uint32_t wrapping)
{
    uint32_t stride = SLOT_OVERHEAD + wrapping + head + size;
    for (uint32_t i = (payload - 1) / size; i > 0; i--) {
        uint32_t left = payload - i * size;
        memmove(frame + head + (size_t)i * stride, frame + head + (size_t)i * size, left < size ? left : size);
    }
}

static void seal_segments(struct core *core, struct peer *peer, const struct headers *headers, uint32_t payload, uint32_t size)
{
    uint32_t head = headers->payload, around = SLOT_OVERHEAD + wrapping_of(peer) + head, stride = around + size;
    uint32_t before = room_before(peer), count = (payload + size - 1) / size;
    uint32_t each = MAX_SEND_BYTES / stride, left = payload;
    struct cutting cutting;
    if (each > MAX_SEND_DATAGRAMS)
        each = MAX_SEND_DATAGRAMS;
    cut_begin(&cutting, core->capture + FRAME_AT, headers, payload, size);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *slot = core->capture + (size_t)i * stride;
        uint32_t piece = cut_next(&cutting, slot + FRAME_AT);
        store_le16(slot + DATA_HEADER_SIZE, head + piece);
        if (!seal_datagram(peer, slot - before, around + piece, true)) {
            count_drop(core, DROP_SEND_FAILED, count);
            return;
        }
    }
    peer->frames_out += count;
    for (uint32_t at = 0; at < count; at += each) {
        uint32_t now = count - at < each ? count - at : each;
        uint32_t bytes = now * stride;
        if (left < now * size)
            bytes -= now * size - left;
        send_datagrams(core, peer, core->capture + (size_t)at * stride - before, bytes, stride, now);
        left -= now * size < left ? now * size : left;
    }
}

/* How large the segments are on this path; 0: Python says. TCP is a stream and may be cut smaller than asked. */
static uint32_t segment_size(const struct peer *peer, const struct headers *headers, uint32_t asked)
{
    int64_t room = (int64_t)peer->max_datagram - DATA_OVERHEAD - ENTRY_HEADER_SIZE - headers->payload;
    if (room > MAX_ENTRY_SIZE - headers->payload)
        room = MAX_ENTRY_SIZE - headers->payload;
    if (room >= asked)
        return asked;
    return room > 0 && headers->protocol == PROTOCOL_TCP ? (uint32_t)room : 0;
}

/* 3a. False: nothing was done, Python looks at it. */
static bool super_frame(struct core *core, struct flow *flow, const struct vnet *vnet, uint32_t length)
{
    uint8_t *frame = core->capture + FRAME_AT;
    struct peer *peer = flow->peer;
    struct headers headers;
    /* The headers are within the first part: it holds at least MIN_PREDICTED bytes, or everything. */
    if (!(vnet->flags & VNET_NEEDS_CSUM) || !vnet->gso_size || !frame_headers(frame, length, &headers) ||
        (vnet->gso_type & ~GSO_ECN) != gso_kind(&headers) || headers.end != length || headers.payload >= headers.end ||
        vnet->csum_start != headers.l4 || vnet->csum_offset != headers.checksum_offset)
        return false;
    uint32_t size = segment_size(peer, &headers, vnet->gso_size), head = headers.payload, payload = length - head;
    if (!size)
        return false;
    uint64_t count = (payload + size - 1) / size;
    uint32_t wrapping = wrapping_of(peer);
    uint64_t sealed = count + (peer->lane && peer->lane->entries); /* with what is in hand, which goes first */
    if (peer->via && peer->via->key->relay->counter + sealed > MAX_KEY_DATAGRAMS)
        return false;
    if (count * (SLOT_OVERHEAD + wrapping + head + size) > CAPTURE_SIZE || peer->key->counter + sealed > MAX_KEY_DATAGRAMS)
        return false;
    flow_used(core->outbound, flow, length, core->now);
    lane_flush(core, peer);
    bool whole = length + VNET_SIZE <= core->parts[0].iov_len;
    bool as_predicted = head == core->predicted_head && size == core->predicted_size && wrapping == core->predicted_wrapping;
    if (whole || !as_predicted) {
        if (!whole)
            gather(core, core->capture + VNET_AT, length + VNET_SIZE);
        spread(frame, head, payload, size, wrapping);
    }
    seal_segments(core, peer, &headers, payload, size);
    core->since_super = 0;
    if (size >= MIN_PREDICTED && !as_predicted) {
        core->predicted_head = head;
        core->predicted_size = size;
        core->predicted_wrapping = wrapping;
        lay_out(core);
    }
    return true;
}

/* 3b. False: nothing was done, Python looks at it. */
static bool single_frame(struct core *core, struct flow *flow, const struct vnet *vnet, uint32_t length)
{
    const uint8_t *frame = core->capture + FRAME_AT;
    struct peer *peer = flow->peer;
    struct headers headers;
    bool vouched = vnet->flags & VNET_NEEDS_CSUM;
    if (length > MAX_ENTRY_SIZE || length + ENTRY_HEADER_SIZE + DATA_OVERHEAD > peer->max_datagram)
        return false;
    if (vouched && (!frame_headers(frame, length, &headers) || vnet->csum_start != headers.l4 ||
                    vnet->csum_offset != headers.checksum_offset))
        return false;
    flow_used(core->outbound, flow, length, core->now);
    if (length + VNET_SIZE > core->parts[0].iov_len)
        gather(core, core->capture + VNET_AT, length + VNET_SIZE);
    uint8_t entry[ENTRY_HEADER_SIZE];
    store_le16(entry, length);
    peer->frames_out++;
    lane_add(core, peer, entry, frame, length, vouched);
    return true;
}

/* One capture of `size` bytes in core->parts. */
static void captured(struct core *core, uint32_t size)
{
    struct vnet vnet;
    if (size < MIN_CAPTURE) {
        count_drop(core, DROP_BAD_FRAME, 1);
        return;
    }
    memcpy(&vnet, core->capture + VNET_AT, VNET_SIZE);
    uint32_t length = size - VNET_SIZE;
    struct flow *flow = flows_find(core->outbound, 0, core->capture + FRAME_AT);
    if (core->mirrored || (flow && flow->behind && !flow->overtaken)) {
        hand_over(core, flow, size);
        return;
    }
    if (flow && flow->action == FLOW_DROP) {
        flow_used(core->outbound, flow, length, core->now);
        count_drop(core, flow->reason, 1);
        return;
    }
    if (flow && flow->action == FLOW_PEER && peer_sends(flow->peer)) {
        if (vnet.gso_type == GSO_NONE ? single_frame(core, flow, &vnet, length) : super_frame(core, flow, &vnet, length))
            return;
    }
    hand_over(core, flow, size);
}

bool pump_frames(struct core *core)
{
    int64_t started = nanoseconds(core), deadline = started + turn_of(core);
    int64_t budget = PUMP_BYTES;
    bool alone = is_first(core, &core->pause, started) && core->frames_fd >= 0, more = false;
    if (!core->part_count)
        lay_out(core);
    while (!core->failed) {
        ssize_t size = read_capture(core);
        if (size < 0)
            break;
        if (core->predicted_size && ++core->since_super > FORGET_AFTER) {
            core->predicted_head = core->predicted_size = 0;
            captured(core, (uint32_t)size);
            lay_out(core);
        } else {
            captured(core, (uint32_t)size);
        }
        budget -= size;
        core->moved_at = nanoseconds(core);
        if (alone || budget <= 0 || is_wanted(core) || core->moved_at >= deadline) {
            more = true;
            break;
        }
    }
    lanes_flush(core);
    return more;
}
