/* What the packet path works on. Everything is made under the GIL, in calls from Python; nothing is allocated per packet.
 *
 * While a pump runs the GIL is released. It is taken again for calls into Python only (`enter_python`), and those may call back
 * into everything here but the pumps. A pump in a thread of its own (thread.c) takes it never: what it needs Python for it puts into
 * a queue (upcalls.c). */
#ifndef MESHD_ENGINE_H
#define MESHD_ENGINE_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "aead.h"
#include "coalesce.h"
#include "flows.h"
#include "replay.h"

/* Numbers shared with the Python engine; tests/engine/test_native_parts.py holds those equal that Python names. */
enum {
    DATA_HEADER_SIZE = 16,
    DATA_OVERHEAD = DATA_HEADER_SIZE + AEAD_TAG_SIZE,
    DATA_FIRST_BYTE = 0x14,
    RELAY_HEADER_SIZE = 36,
    RELAY_OVERHEAD = RELAY_HEADER_SIZE + AEAD_TAG_SIZE,
    RELAY_FIRST_BYTE = 0x18,
    FLAG_VOUCHED = 0x01,
    ENTRY_HEADER_SIZE = 2,
    MAX_ENTRY_SIZE = 0x3FFF,
    MAX_SEND_DATAGRAMS = 64,
    MAX_SEND_BYTES = 64000,
    PUMP_BYTES = 1 << 20,
    PUMP_NANOSECONDS = 1000000,
    MAX_KEY_DATAGRAMS = 1 << 28,
};

/* Of meshd.drops.DropReason, those that are counted here. */
enum drop {
    DROP_TRUNCATED = 1,
    DROP_UNKNOWN_VERSION = 3,
    DROP_UNKNOWN_TYPE = 4,
    DROP_UNKNOWN_SEGMENT = 5,
    DROP_UNKNOWN_INDEX = 7,
    DROP_BAD_TAG = 9,
    DROP_REPLAYED = 10,
    DROP_TOO_OLD = 11,
    DROP_KEY_EXPIRED = 12,
    DROP_BAD_FRAME = 20,
    DROP_NO_PATH = 31,
    DROP_TOO_BIG = 32,
    DROP_QUEUE_FULL = 33,
    DROP_SEND_FAILED = 34,
    DROP_TAP_DOWN = 35,
    DROP_KERNEL_UDP = 39,
};

/* Own sizes. */
enum {
    MAX_CAPTURE = VNET_SIZE + ETHERNET_SIZE + 65535,
    CAPTURE_SIZE = 128 * 1024, /* a capture with room around each of its segments */
    RECEIVE_BUFFERS = 32,
    RECEIVE_SIZE = 65536,
    MAX_LANES = 16, /* peers that one wake-up has something in hand for */
    LANE_SIZE = MAX_SEND_BYTES + DATA_OVERHEAD + RELAY_OVERHEAD + ENTRY_HEADER_SIZE + MAX_ENTRY_SIZE,
    SHORT_ID_SIZE = 8,
    ROUTE_SIZE = 20, /* of the header of type 8: what follows the counter */
    /* As many as there may be in an aggregate of ours, on whatever path. A datagram with more of them goes to Python. */
    MAX_ENTRIES = MAX_ENTRY_SIZE / (ENTRY_HEADER_SIZE + ETHERNET_SIZE),
    UPCALL_QUEUE_SIZE = 4 << 20,
    QUIET_NANOSECONDS = 200000, /* without a frame or datagram: the engine has nothing to do */
    TURN_NANOSECONDS = 200000, /* a pump's, in a thread: turns cost nothing there, and the other direction waits for its own */
    MAX_IN_VAIN = 8, /* pumps of a port that is said to be readable and is not, before the thread looks away for a moment */
    MAX_BEHIND = 64, /* captures of one flow that wait for Python before others of it go past them */
};

struct port {
    PyObject *object; /* the DatagramPort; asked itself where it has no descriptor */
    int fd, family;
    bool segmenting;
    uint32_t overflow; /* the port's count of what the kernel dropped, as last seen */
    uint32_t pause;    /* after which one of the core's pauses it was pumped last */
    uint32_t in_vain;  /* pumps since the last one that something came of */
    uint32_t rests;    /* how often the thread looked away for that reason */
};

struct seal_key {
    PyObject_HEAD
    PyObject *aead_object;
    struct aead *aead;
    uint64_t counter;
    uint8_t head[2][8]; /* the datagram header without its counter; [1] vouched */
    struct seal_key *relay; /* the relay layer of the same session; NULL: not needed yet */
};

/* Sealed datagrams of one wake-up for one peer, and behind them the one that is being filled. */
struct lane {
    struct peer *peer; /* NULL: free */
    uint32_t count, bytes, size; /* sealed: all of `size` but the last */
    uint32_t entries, open; /* in the datagram that is being filled: entries, and bytes of them */
    bool vouched;
    uint8_t *data;
};

/* What hangs below a peer's slot, as far as the packet path needs it. */
struct peer {
    PyObject_HEAD
    PyObject *slot;
    uint32_t number; /* the same */
    struct seal_key *key;
    struct port *port; /* NULL: Python sends to this peer, unless it has a `via` */
    struct sockaddr_storage address;
    socklen_t address_size;
    struct peer *via; /* what it is sent goes through this one, in type 8; `port` is NULL */
    uint8_t route[ROUTE_SIZE];
    uint32_t max_datagram, aggregate_limit;
    struct lane *lane;
    /* since they were last taken */
    uint64_t frames_out, datagrams_out, bytes_out, frames_in;
    uint64_t relayed_out, relayed_bytes_out, relayed_bytes_in;
    double last_heard;
};

struct receive_key {
    uint32_t index;
    bool confirmed; /* something authentic has come in under it */
    PyObject *object, *window_object, *aead_object;
    struct replay_window *window;
    struct aead *aead;
    struct peer *peer;
    uint64_t bytes; /* since they were last taken */
    PyObject *relay_window_object, *relay_aead_object; /* the relay layer of the same session; NULL: not needed yet */
    struct replay_window *relay_window;
    struct aead *relay_aead;
    struct receive_key *next;
};

struct received {
    uint32_t size, segment;
    struct sockaddr_storage source;
    PyObject *endpoint; /* of a port without a descriptor */
    const uint8_t *carried_from; /* the source of the datagram that is unwrapped; NULL: what is looked at came by itself */
    uint8_t *data;
};

/* Of a datagram that has been opened, what Python is to know. */
struct opened {
    uint64_t counter;
    bool vouched;
    bool newest; /* under its key, when it came */
};

/* Relayed datagrams of one buffer that go to one next hop, where they came to lie. */
struct relay_run {
    struct peer *via;
    uint8_t *data;
    uint32_t bytes, size, count; /* all of `size` but the last; count 0: none */
};

struct route {
    uint8_t destination[SHORT_ID_SIZE];
    struct peer *via; /* NULL: free */
};

/* What waits for Python in one direction: records from `tail` to `head`, around the end. */
struct upcall_queue {
    uint8_t *memory;
    uint32_t head, tail, used;
};

enum { UPCALLS_INBOUND, UPCALLS_OUTBOUND, UPCALL_QUEUES };

enum { KEY_BUCKETS = 4096, MAX_PORTS = 4, MAX_CAPTURE_PARTS = 160, MAX_ROUTES = 4096 };

struct core {
    PyObject_HEAD
    struct flow_table *outbound, *inbound;
    struct receive_key *keys[KEY_BUCKETS];
    PyObject *peers; /* a list: what lanes and keys point to stays */
    struct port ports[MAX_PORTS];
    int port_count;
    uint64_t drops[MAX_DROP_REASONS];

    /* the call from Python that is going on */
    PyObject *engine;      /* borrowed: its methods are the way back */
    PyThreadState *thread; /* while the GIL is released */
    bool pumping;
    bool queues;   /* a pump never calls Python but queues what it would have called it for */
    bool queued;   /* such a pump is running */
    bool threaded; /* it runs in a thread of C's own: the GIL is not there to be had */
    bool mirrored; /* somebody looks: everything is Python's */
    PyObject *error[3];    /* an exception that ends the pump */
    bool failed;
    double now;
    int64_t moved_at; /* when a pump had something last, in ns */
    uint32_t pauses;  /* how often there was nothing to do for a while … */
    uint32_t pause;   /* … and after which of them the frame port was pumped last */

    /* outbound */
    PyObject *frames; /* borrowed: the frame port of this pump, and its descriptor */
    int frames_fd;
    uint8_t *capture_memory, *capture; /* the second with room for a header of type 8 before it */
    uint32_t predicted_head, predicted_size, predicted_wrapping; /* of the next super-frame; size 0: none is expected */
    uint32_t since_super;
    struct iovec parts[MAX_CAPTURE_PARTS];
    int part_count;
    struct lane lanes[MAX_LANES];
    int next_lane;

    /* inbound */
    struct received received[RECEIVE_BUFFERS];
    struct reading *reading;
    int next_buffer;
    bool large;   /* the last read brought large buffers */
    bool drained; /* it brought fewer than there was room for: nothing is left */
    struct series series;
    struct receive_key *series_key;
    struct flow *series_flow;
    PyObject *source; /* the Endpoint of `source_address` */
    struct sockaddr_storage source_address;

    /* relaying */
    bool relays; /* `origin` is known */
    uint8_t origin[SHORT_ID_SIZE];
    struct route routes[MAX_ROUTES];
    struct relay_run run;
    PyObject *relayed;           /* the Relayed of `relayed_source` */
    uint8_t relayed_source[SHORT_ID_SIZE];

    /* a pump in a thread of its own */
    struct pump_thread *pump;
    struct upcall_queue upcalls[UPCALL_QUEUES];
    int next_queue;
    int frames_error; /* errno of the frame port's failure, until it is told */
};

/* The GIL, and exceptions of what is called under it. */
static inline void release_python(struct core *core)
{
    core->thread = PyEval_SaveThread();
}

/* Returns whether there is something to leave again. */
static inline bool enter_python(struct core *core)
{
    if (!core->thread)
        return false;
    PyEval_RestoreThread(core->thread);
    core->thread = NULL;
    return true;
}

static inline void leave_python(struct core *core, bool entered)
{
    if (PyErr_Occurred()) {
        if (core->failed)
            PyErr_Clear(); /* the first one says what is wrong */
        else
            PyErr_Fetch(&core->error[0], &core->error[1], &core->error[2]);
        core->failed = true;
    }
    if (entered)
        release_python(core);
}

/* May C send to this peer itself? */
static inline bool peer_sends(const struct peer *peer)
{
    const struct peer *via = peer->via;
    return via ? via->port && via->key->relay : peer->port != NULL;
}

/* What type 8 puts before each datagram, and around it. */
static inline uint32_t room_before(const struct peer *peer) { return peer->via ? RELAY_HEADER_SIZE : 0; }

static inline uint32_t wrapping_of(const struct peer *peer) { return peer->via ? RELAY_OVERHEAD : 0; }

static inline void count_drop(struct core *core, unsigned reason, uint64_t count) { core->drops[reason] += count; }

/* How long a pump may go on before the other direction has its turn, in ns. */
static inline int64_t turn_of(const struct core *core) { return core->threaded ? TURN_NANOSECONDS : PUMP_NANOSECONDS; }

int64_t nanoseconds(struct core *core); /* io.c */

/* Is this the port's first pump since the engine had nothing to do? Then it takes one frame, or one read of datagrams, and leaves it to
 * the wait for the next one to say whether there are more. Mostly there are not, and the read that finds nothing would stand between the
 * frame and its being sent. */
static inline bool is_first(struct core *core, uint32_t *pause, int64_t now)
{
    core->pauses += now - core->moved_at >= QUIET_NANOSECONDS;
    bool first = *pause != core->pauses;
    *pause = core->pauses;
    return first;
}

/* lanes.c: from entries to the datagram port */
void lane_add(struct core *core, struct peer *peer, const uint8_t *header, const uint8_t *body, uint32_t size, bool vouched);
void lane_flush(struct core *core, struct peer *peer);
void lanes_flush(struct core *core);
bool seal_datagram(struct peer *peer, uint8_t *datagram, uint32_t size, bool vouched);
void send_datagrams(struct core *core, struct peer *peer, const uint8_t *data, uint32_t bytes, uint32_t size, uint32_t count);

/* io.c: the kernel, or Python where there is no descriptor */
enum { IO_NOTHING = -1, IO_FAILED = -2 };
ssize_t read_capture(struct core *core);
void write_frame(struct core *core, struct iovec *parts, int count, uint32_t frames);
bool reading_prepare(struct core *core);
int receive_datagrams(struct core *core, struct port *port, int first, int limit);
unsigned send_parts(struct core *core, struct peer *hop, struct peer *source, const uint8_t *data, uint32_t bytes, uint32_t size, uint32_t count, uint32_t *sent);

/* outbound.c, inbound.c: the pumps; true: there is more */
bool pump_frames(struct core *core);
bool pump_datagrams(struct core *core, struct port *port);
uint32_t datagram(struct core *core, struct received *from, uint8_t *data, uint32_t left);
uint32_t other_datagrams(struct core *core, const struct received *from, const uint8_t *data, uint32_t left);
bool is_confirmed(struct core *core, struct receive_key *key);
void capture_to_python(struct core *core, PyObject *capture);
void datagrams_to_python(struct core *core, const struct received *from, const uint8_t *data, uint32_t bytes, uint32_t size);
void opened_to_python(struct core *core, const struct received *from, struct receive_key *key, const struct opened *opened, const uint8_t *plain, uint32_t size);

/* relay.c: type 8 */
uint32_t relay_datagram(struct core *core, struct received *from, uint8_t *data, uint32_t left);
void relay_flush(struct core *core);
uint32_t send_relayed(struct core *core, struct peer *via, struct peer *source, const uint8_t *data, uint32_t bytes, uint32_t size, uint32_t count);
bool seal_relay(struct seal_key *relay, uint8_t *data, uint32_t size);
void put_route(struct core *core, const uint8_t *destination, struct peer *via);
PyObject *relay_for(PyObject *core, PyObject *args), *add_relay_key(PyObject *core, PyObject *args), *add_route(PyObject *core, PyObject *args);
PyObject *void_routes(PyObject *core, PyObject *unused), *take_relayed(PyObject *core, PyObject *args);

/* upcalls.c: what a pump that queues leaves for Python */
bool queues_prepare(struct core *core);
void queues_release(struct core *core);
uint8_t *queue_capture(struct core *core, struct flow *flow, uint32_t size);
void queue_datagrams(struct core *core, const struct received *from, const uint8_t *data, uint32_t bytes, uint32_t size);
void queue_opened(struct core *core, const struct received *from, const struct receive_key *key, const struct opened *opened, const uint8_t *plain, uint32_t size);
bool upcalls_wait(const struct core *core);
bool give_upcall(struct core *core);

/* thread.c: the lock, and the thread */
bool thread_prepare(struct core *core);
void thread_release(struct core *core);
void core_hold(struct core *core);
void core_release(struct core *core);
bool is_wanted(const struct core *core);
PyObject *start_pump(PyObject *core, PyObject *fd), *stop_pump(PyObject *core, PyObject *unused), *watch_frames(PyObject *core, PyObject *fd);
PyObject *pump_until(PyObject *core, PyObject *seconds), *take_upcall(PyObject *core, PyObject *args);
PyObject *hold(PyObject *core, PyObject *unused), *release(PyObject *core, PyObject *unused);

/* tables_core.c: what is registered for the packet path */
struct port *port_of(struct core *core, int number);
void tables_release(struct core *core);
PyObject *add_port(PyObject *core, PyObject *args), *overflow(PyObject *core, PyObject *args), *in_vain(PyObject *core, PyObject *number);
PyObject *segmenting(PyObject *core, PyObject *number);
PyObject *make_peer(PyObject *core, PyObject *slot), *open_peer(PyObject *core, PyObject *args), *open_through(PyObject *core, PyObject *args);
PyObject *close_peer(PyObject *core, PyObject *peer), *add_key(PyObject *core, PyObject *args);
PyObject *take_bytes(PyObject *core, PyObject *number), *drop_key(PyObject *core, PyObject *number);

/* core.c: the end of a call that may have called back; NULL if something there went wrong */
PyObject *finish(struct core *core, PyObject *result);

/* Receive keys by index. Indices are random, so their low bits are as good as a hash. */
static inline struct receive_key *find_key(struct core *core, uint32_t index)
{
    struct receive_key *key = core->keys[index % KEY_BUCKETS];
    while (key && key->index != index)
        key = key->next;
    return key;
}

/* types.c */
extern PyTypeObject *aead_type, *window_type, *seal_key_type, *peer_type, *core_type;
struct aead *aead_of(PyObject *object);
struct replay_window *window_of(PyObject *object);

#endif
