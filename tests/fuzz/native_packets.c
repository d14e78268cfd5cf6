/* Malformed captures and datagrams for the packet path of the native engine: outbound.c, inbound.c, relay.c, lanes.c, upcalls.c and
 * what they stand on. Every other input is pumped as a thread of its own would: what Python has to see is queued, and taken later.
 *
 *     packaging/fuzz-native [inputs] [seed]
 *
 * Compiled with the sanitizers, and without Python: the kernel's side (io.c) is played here, and what would be handed to Python is
 * read to its last byte and dropped. An input is a batch of records for one pump. With clang, libFuzzer makes the inputs; with gcc,
 * `main` makes them out of real frames by a seeded generator.
 *
 * A record: a control byte, two bytes of length, and so many bytes. Control bytes of an input's first record choose the direction.
 *
 *   bit 0   the whole input: 0 outbound, 1 inbound
 *   bit 1   outbound: as it is, else with addresses that lead to a peer; inbound: as it is, else sealed: the record is a plaintext
 *   bit 2   inbound: its frames are vouched for
 *   bit 3   inbound: cut at a quarter of the buffer, as UDP_GRO says
 *   bit 4   outbound: to the second peer, bit 6: through it; inbound: a counter is left out
 *   bit 5   inbound: the same datagram twice
 *   bit 6   inbound: in a datagram of type 8, bit 7: for another host */
#include <stdio.h>
#include <stdlib.h>

#include "engine.h"

/* ── Python, played */

static PyObject nothing = {.ob_refcnt = 1 << 30};

struct bytes {
    PyObject object;
    char *data;
};

static volatile unsigned seen;

static void look(const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        seen += ((const uint8_t *)data)[i];
}

PyThreadState *PyEval_SaveThread(void) { return (PyThreadState *)&nothing; }
void PyEval_RestoreThread(PyThreadState *thread) { (void)thread; }
PyObject *PyErr_Occurred(void) { return NULL; }
void PyErr_Clear(void) {}
void PyErr_Fetch(PyObject **a, PyObject **b, PyObject **c) { *a = *b = *c = NULL; }
PyObject *PyObject_GetAttrString(PyObject *object, const char *name) { (void)object; (void)name; return &nothing; }
int PyObject_IsTrue(PyObject *object) { (void)object; return 0; }

PyObject *PyByteArray_FromStringAndSize(const char *data, Py_ssize_t size)
{
    struct bytes *made = malloc(sizeof *made);
    (void)data;
    made->object = (PyObject){.ob_refcnt = 1};
    made->data = malloc(size ? (size_t)size : 1);
    return &made->object;
}

char *PyByteArray_AsString(PyObject *object) { return ((struct bytes *)object)->data; }

void _Py_Dealloc(PyObject *object)
{
    free(((struct bytes *)object)->data);
    free(object);
}

/* What is handed over comes as (…, "y#", data, size, …). */
PyObject *_PyObject_CallMethod_SizeT(PyObject *object, const char *name, const char *format, ...)
{
    va_list arguments;
    (void)object;
    va_start(arguments, format);
    if (strcmp(name, "native_take") == 0) {
        const char *data = va_arg(arguments, const char *);
        look(data, (size_t)va_arg(arguments, Py_ssize_t));
    } else if (strcmp(name, "native_opened") == 0) {
        (void)va_arg(arguments, PyObject *);
        (void)va_arg(arguments, unsigned long long);
        (void)va_arg(arguments, int);
        (void)va_arg(arguments, int);
        const char *data = va_arg(arguments, const char *);
        look(data, (size_t)va_arg(arguments, Py_ssize_t));
    }
    va_end(arguments);
    return &nothing;
}

/* ── the kernel, played */

enum { MAX_RECORDS = 16, PEERS = 2 };

static struct core core;
static struct peer peers[PEERS];
static struct seal_key seal_keys[PEERS];
static struct port port = {.object = &nothing, .fd = -1, .segmenting = true};
static struct receive_key receive_key;
static struct replay_window window;
static uint64_t counter;
static struct peer far; /* reached through the second one */
static struct seal_key relay_keys[PEERS];
static struct replay_window relay_window;
static const uint8_t origin[SHORT_ID_SIZE] = {1}, elsewhere[SHORT_ID_SIZE] = {2};

static const uint8_t *records, *records_end;
static const uint8_t source[6] = {2, 0, 0, 0, 0, 10};

static bool next_record(uint8_t *control, const uint8_t **data, uint32_t *size)
{
    if (records_end - records < 3)
        return false;
    *control = records[0];
    *size = load_le16(records + 1);
    records += 3;
    if (*size > records_end - records)
        *size = (uint32_t)(records_end - records);
    *data = records;
    records += *size;
    return true;
}

int64_t nanoseconds(struct core *unused)
{
    (void)unused;
    return 0;
}

ssize_t read_capture(struct core *into)
{
    uint8_t control, copy[MAX_CAPTURE];
    const uint8_t *data;
    uint32_t size, done = 0;
    if (!next_record(&control, &data, &size))
        return IO_NOTHING;
    memcpy(copy, data, size);
    if (!(control & 2) && size >= VNET_SIZE + 12) {
        memset(copy + VNET_SIZE, control & 64 ? 4 : control & 16 ? 2 : 1, 6);
        memcpy(copy + VNET_SIZE + 6, source, 6);
    }
    for (int i = 0; i < into->part_count && done < size; i++) {
        uint32_t piece = size - done < into->parts[i].iov_len ? size - done : (uint32_t)into->parts[i].iov_len;
        memcpy(into->parts[i].iov_base, copy + done, piece);
        done += piece;
    }
    return done;
}

void write_frame(struct core *unused, struct iovec *parts, int count, uint32_t frames)
{
    size_t total = 0;
    (void)unused;
    for (int i = 0; i < count; i++) {
        look(parts[i].iov_base, parts[i].iov_len);
        total += parts[i].iov_len;
    }
    if (!frames || frames > MAX_SERIES || total < VNET_SIZE + ETHERNET_SIZE || total > MAX_CAPTURE)
        abort();
}

/* What goes out must be what the other side can open. */
unsigned send_parts(struct core *unused, struct peer *peer, struct peer *from, const uint8_t *data, uint32_t bytes, uint32_t size, uint32_t count, uint32_t *sent)
{
    static uint8_t copy[MAX_SEND_BYTES + MAX_ENTRY_SIZE];
    (void)unused;
    if (!count || count > MAX_SEND_DATAGRAMS || bytes > (uint64_t)size * count || bytes <= (uint64_t)size * (count - 1) ||
        (count > 1 && bytes > MAX_SEND_BYTES))
        abort();
    memcpy(copy, data, bytes);
    for (uint32_t at = 0; at < bytes; at += size) {
        uint32_t length = bytes - at < size ? bytes - at : size;
        uint8_t nonce[AEAD_NONCE_SIZE] = {0}, *body = copy + at + DATA_HEADER_SIZE;
        if (from != peer) {
            struct aead *relay = peer->key->relay->aead;
            uint8_t *tag = copy + at + length - AEAD_TAG_SIZE;
            memcpy(nonce + 4, copy + at + 8, 8);
            if (copy[at] != RELAY_FIRST_BYTE || length < RELAY_OVERHEAD ||
                !relay->open(relay, nonce, copy + at, length - AEAD_TAG_SIZE, tag, 0, tag))
                abort();
            if (!from)
                continue;
            body += RELAY_HEADER_SIZE;
            length -= RELAY_OVERHEAD;
        }
        if (length < DATA_OVERHEAD + ENTRY_HEADER_SIZE || length > from->max_datagram)
            abort();
        uint8_t *header = body - DATA_HEADER_SIZE;
        memcpy(nonce + 4, header + 8, 8);
        struct aead *aead = from->key->aead;
        if (!aead->open(aead, nonce, header, DATA_HEADER_SIZE, body, length - DATA_OVERHEAD, body + length - DATA_OVERHEAD))
            abort();
    }
    *sent = count;
    return 0;
}


bool is_wanted(const struct core *unused)
{
    (void)unused;
    return false;
}

/* Type 8 around it, as a hop makes it; returns its size. */
static uint32_t wrap(uint8_t *at, uint32_t size, bool onward)
{
    uint8_t nonce[AEAD_NONCE_SIZE] = {0}, *tag = at + RELAY_HEADER_SIZE + size;
    memmove(at + RELAY_HEADER_SIZE, at, size);
    memset(at, 0, RELAY_HEADER_SIZE);
    at[0] = RELAY_FIRST_BYTE;
    memcpy(at + 4, &receive_key.index, 4);
    store_le64(at + 8, counter);
    store_le64(nonce + 4, counter);
    memcpy(at + 16, onward ? elsewhere : origin, SHORT_ID_SIZE);
    at[24] = 9;
    at[32] = (uint8_t)(1 + counter % 16);
    receive_key.relay_aead->seal(receive_key.relay_aead, nonce, at, RELAY_HEADER_SIZE + size, tag, 0, tag);
    return size + RELAY_OVERHEAD;
}

int receive_datagrams(struct core *into, struct port *unused, int first, int limit)
{
    uint8_t control;
    const uint8_t *data;
    uint32_t size;
    struct received *buffer = &into->received[first];
    (void)unused;
    (void)limit;
    if (!next_record(&control, &data, &size) || !size)
        return 0;
    buffer->size = 0;
    for (int copies = control & 32 ? 2 : 1; copies; copies--) {
        uint8_t *at = buffer->data + buffer->size;
        if (control & 2 || size > 20000) {
            size = size > RECEIVE_SIZE - buffer->size ? RECEIVE_SIZE - buffer->size : size;
            memcpy(at, data, size);
            buffer->size += size;
            continue;
        }
        uint8_t nonce[AEAD_NONCE_SIZE] = {0};
        counter += control & 16 ? 2 : 1;
        at[0] = DATA_FIRST_BYTE;
        at[1] = control & 4 ? FLAG_VOUCHED : 0;
        store_le16(at + 2, 0);
        memcpy(at + 4, &receive_key.index, 4);
        store_le64(at + 8, counter);
        store_le64(nonce + 4, counter);
        memcpy(at + DATA_HEADER_SIZE, data, size);
        receive_key.aead->seal(receive_key.aead, nonce, at, DATA_HEADER_SIZE, at + DATA_HEADER_SIZE, size, at + DATA_HEADER_SIZE + size);
        uint32_t length = size + DATA_OVERHEAD;
        if (control & 64)
            length = wrap(at, length, control & 128);
        buffer->size += length;
    }
    buffer->segment = control & 8 ? buffer->size / 4 + 1 : control & 32 ? buffer->size / 2 : buffer->size;
    return 1;
}

/* ── one input */

static void add_flow(struct flow_table *table, uint32_t slot, uint8_t last, enum flow_action action, struct peer *peer)
{
    uint8_t addresses[ADDRESSES_SIZE];
    memset(addresses, last, 6);
    memcpy(addresses + 6, source, 6);
    struct flow *flow = flows_add(table, slot, addresses);
    flow->object = &nothing;
    flow->action = (uint8_t)action;
    flow->reason = 25;
    flow->peer = peer;
}

static void prepare(void)
{
    static const uint8_t key[AEAD_KEY_SIZE] = {1};
    static const uint32_t sizes[PEERS] = {1472, 9000};
    core.outbound = calloc(1, sizeof *core.outbound);
    core.inbound = calloc(1, sizeof *core.inbound);
    core.engine = core.frames = &nothing;
    core.capture_memory = malloc(RELAY_HEADER_SIZE + CAPTURE_SIZE + AEAD_TAG_SIZE);
    core.capture = core.capture_memory + RELAY_HEADER_SIZE;
    if (!queues_prepare(&core))
        abort();
    for (int i = 0; i < MAX_LANES; i++)
        core.lanes[i].data = malloc(LANE_SIZE);
    for (int i = 0; i < RECEIVE_BUFFERS; i++) {
        core.received[i].data = malloc(RECEIVE_SIZE);
        core.received[i].endpoint = &nothing;
    }
    flows_prepare(core.outbound, 100);
    flows_prepare(core.inbound, 100);
    for (int i = 0; i < PEERS; i++) {
        seal_keys[i].aead = aead_new(AEAD_AES_256_GCM, key, i ? "openssl" : NULL);
        seal_keys[i].head[0][0] = seal_keys[i].head[1][0] = DATA_FIRST_BYTE;
        seal_keys[i].relay = &relay_keys[i];
        relay_keys[i].aead = aead_new(AEAD_AES_256_GCM, key, i ? "openssl" : NULL);
        relay_keys[i].head[0][0] = RELAY_FIRST_BYTE;
        peers[i] = (struct peer){.slot = &nothing, .number = 256, .key = &seal_keys[i], .port = &port, .max_datagram = sizes[i],
                                 .aggregate_limit = i ? 9000 : 1280};
        add_flow(core.outbound, 0, (uint8_t)(i + 1), FLOW_PEER, &peers[i]);
    }
    far = (struct peer){.slot = &nothing, .number = 257, .key = &seal_keys[0], .via = &peers[1], .max_datagram = 1420, .aggregate_limit = 1280};
    add_flow(core.outbound, 0, 4, FLOW_PEER, &far);
    add_flow(core.outbound, 0, 3, FLOW_DROP, NULL);
    add_flow(core.inbound, 256, 1, FLOW_LOCAL, NULL);
    add_flow(core.inbound, 256, 2, FLOW_LOCAL, NULL);
    add_flow(core.inbound, 256, 3, FLOW_DROP, NULL);
    receive_key = (struct receive_key){.index = 7, .confirmed = true, .object = &nothing, .window = &window, .peer = &peers[0],
                                       .aead = aead_new(AEAD_AES_256_GCM, key, NULL), .relay_window = &relay_window,
                                       .relay_aead = aead_new(AEAD_AES_256_GCM, key, NULL)};
    core.relays = true;
    memcpy(core.origin, origin, SHORT_ID_SIZE);
    put_route(&core, elsewhere, &peers[1]);
    core.keys[7] = &receive_key;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!core.capture)
        prepare();
    if (!size)
        return 0;
    records = data;
    records_end = data + size;
    for (int i = 0; i < PEERS; i++)
        seal_keys[i].counter = relay_keys[i].counter = 0; /* never too many for the key */
    release_python(&core);
    core.queued = size & 1;
    if (data[0] & 1)
        pump_datagrams(&core, &port);
    else
        pump_frames(&core);
    core.thread = NULL;
    core.queued = false;
    for (uint32_t count = size & 2 ? UINT32_MAX : 2; count && give_upcall(&core); count--) /* the queues go round, and get full */
        ;
    return 0;
}

/* ── inputs by a seeded generator */

#ifndef WITH_LIBFUZZER

static uint64_t state;

static uint32_t draw(uint32_t limit)
{
    state ^= state << 13; /* xorshift64, Marsaglia 2003 */
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % limit;
}

/* A frame that says the truth; returns its size. */
static uint32_t make_frame(uint8_t *frame, struct headers *headers, uint32_t payload)
{
    bool six = draw(2), tcp = draw(3), tagged = draw(8) == 0;
    uint32_t at = 12, options = tcp && draw(2) ? 12 : 0;
    memset(frame, 1 + (int)draw(3), 6);
    memcpy(frame + 6, source, 6);
    if (tagged) {
        store_be32(frame + at, 0x81000007);
        at += 4;
    }
    store_be16(frame + at, six ? 0x86DD : 0x0800);
    at += 2;
    *headers = (struct headers){.version = six ? 6 : 4, .protocol = tcp ? PROTOCOL_TCP : PROTOCOL_UDP, .l3 = (uint16_t)at};
    memset(frame + at, 0, 100);
    frame[at] = six ? 0x60 : 0x45;
    frame[at + (six ? 6 : 9)] = headers->protocol;
    headers->l4 = (uint16_t)(at + (six ? 40 : 20));
    headers->payload = (uint16_t)(headers->l4 + (tcp ? 20 + options : 8));
    headers->checksum_offset = tcp ? 16 : 6;
    if (tcp) {
        frame[headers->l4 + 12] = (uint8_t)((5 + options / 4) << 4);
        frame[headers->l4 + TCP_FLAGS] = draw(4) ? TCP_ACK : (uint8_t)draw(256);
    }
    for (uint32_t i = 0; i < payload; i++)
        frame[headers->payload + i] = (uint8_t)i;
    fit_headers(frame, headers, payload);
    headers->end = headers->payload + payload;
    return headers->end;
}

static uint32_t make_capture(uint8_t *into)
{
    struct headers headers;
    uint32_t kind = draw(4), payload = kind == 0 ? draw(60000) : draw(1300);
    uint32_t size = make_frame(into + VNET_SIZE, &headers, payload);
    memset(into, 0, VNET_SIZE);
    if (kind < 3)
        partial_vnet(into, &headers, kind < 2 ? (uint16_t)(1 + draw(kind ? 300 : 1400)) : 0);
    return size + VNET_SIZE;
}

static uint32_t make_plaintext(uint8_t *into)
{
    uint32_t size = 0, sequence = draw(3);
    for (uint32_t count = draw(4) ? 1 : 1 + draw(5); count; count--) {
        struct headers headers;
        uint32_t frame = make_frame(into + size + 2, &headers, draw(3) ? 1000 : draw(1200));
        if (headers.protocol == PROTOCOL_TCP)
            store_be32(into + size + 2 + headers.l4 + 4, sequence * 1000);
        store_le16(into + size, frame | (draw(20) ? 0 : draw(4) << 14));
        size += 2 + frame;
    }
    return size;
}

static uint32_t mutate(uint8_t *data, uint32_t size)
{
    static const uint8_t interesting[] = {0, 1, 2, 4, 5, 6, 0x0F, 0x10, 0x11, 0x14, 0x18, 0x20, 0x40, 0x45, 0x4F, 0x60, 0x7F, 0x80, 0xFF};
    for (uint32_t count = draw(5); count && size; count--) {
        uint32_t at = draw(4) ? draw(size < 100 ? size : 100) : draw(size); /* headers first */
        switch (draw(5)) {
        case 0:
            data[at] ^= (uint8_t)(1 << draw(8));
            break;
        case 1:
            data[at] = (uint8_t)draw(256);
            break;
        case 2:
            data[at] = interesting[draw(sizeof interesting)];
            break;
        case 3:
            size = draw(2) ? at : size - draw(size < 20 ? size : 20);
            break;
        default:
            memmove(data + at, data, size - at);
        }
    }
    return size;
}

int main(int count, char **arguments)
{
    uint64_t wanted = count > 1 ? strtoull(arguments[1], NULL, 10) : 1000000, done = 0;
    uint64_t seed = count > 2 ? strtoull(arguments[2], NULL, 10) : 0;
    static uint8_t scratch[MAX_RECORDS * (MAX_CAPTURE + 3)];
    state = 0x9E3779B97F4A7C15u * (seed + 1);
    while (done < wanted) {
        uint8_t inward = (uint8_t)draw(2);
        uint32_t records_here = 1 + draw(MAX_RECORDS), total = 0;
        static uint8_t plain[MAX_CAPTURE];
        uint32_t repeated = inward && draw(2) ? make_plaintext(plain) : 0; /* a run of like segments */
        for (uint32_t i = 0; i < records_here; i++) {
            uint8_t *record = scratch + total, control = (uint8_t)(inward | (draw(10) ? 0 : 2) | draw(64) << 2);
            uint32_t size = repeated;
            if (repeated)
                memcpy(record + 3, plain, repeated);
            else
                size = inward ? make_plaintext(record + 3) : make_capture(record + 3);
            if (!repeated || !draw(4))
                size = mutate(record + 3, size);
            if (size > 65535)
                size = 65535;
            record[0] = repeated ? (uint8_t)((control & ~(8 | 16 | 2)) | 4) : control;
            store_le16(record + 1, size);
            total += 3 + size;
            if (repeated) /* the next segment of a series, where there is no tag and no IPv6: near enough */
                store_be32(plain + 2 + 38, load_be32(plain + 2 + 38) + 1000);
        }
        uint8_t *exact = malloc(total); /* so that reading past the end is seen */
        memcpy(exact, scratch, total);
        LLVMFuzzerTestOneInput(exact, total);
        free(exact);
        done += records_here;
    }
    uint64_t dropped = 0;
    for (int i = 0; i < MAX_DROP_REASONS; i++)
        dropped += core.drops[i];
    printf("%llu malformed frames and datagrams from seed %llu: clean (%llu counted as dropped, %llu datagrams sent, %llu frames in)\n",
           (unsigned long long)done, (unsigned long long)seed, (unsigned long long)dropped,
           (unsigned long long)(peers[0].datagrams_out + peers[1].datagrams_out), (unsigned long long)peers[0].frames_in);
    return 0;
}

#endif
