/* Core: tables and pumps as Python sees them. Whatever may call back is given the engine, and holds it for that call only. */
#include <arpa/inet.h>
#include <math.h>
#include <stdlib.h>

#include "engine.h"

static PyObject *make_core(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"outbound", "inbound", "queues", NULL};
    PyObject *outbound, *inbound;
    int queues = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO|p", names, &outbound, &inbound, &queues))
        return NULL;
    if (Py_TYPE(outbound) != flow_table_type || Py_TYPE(inbound) != flow_table_type) {
        PyErr_SetString(PyExc_TypeError, "not a FlowTable of this module");
        return NULL;
    }
    struct core *core = new_object(type);
    if (!core)
        return NULL;
    core->outbound = (struct flow_table *)Py_NewRef(outbound);
    core->inbound = (struct flow_table *)Py_NewRef(inbound);
    core->peers = PyList_New(0);
    core->capture_memory = malloc(RELAY_HEADER_SIZE + CAPTURE_SIZE + AEAD_TAG_SIZE);
    core->capture = core->capture_memory + RELAY_HEADER_SIZE;
    core->queues = queues;
    bool complete = core->peers && core->capture_memory && thread_prepare(core) && (!queues || queues_prepare(core));
    for (int i = 0; i < MAX_LANES; i++) /* touched, and so real memory, only when needed */
        complete &= (core->lanes[i].data = malloc(LANE_SIZE)) != NULL;
    for (int i = 0; i < RECEIVE_BUFFERS; i++)
        complete &= (core->received[i].data = malloc(RECEIVE_SIZE)) != NULL;
    if (!complete) {
        Py_DECREF(core);
        return PyErr_NoMemory();
    }
    return (PyObject *)core;
}

static void close_peer_of(struct peer *peer)
{
    Py_CLEAR(peer->key);
    peer->port = NULL;
    peer->via = NULL;
}

static void free_key(struct receive_key *key)
{
    Py_DECREF(key->object);
    Py_DECREF(key->window_object);
    Py_DECREF(key->aead_object);
    Py_XDECREF(key->relay_window_object);
    Py_XDECREF(key->relay_aead_object);
    Py_DECREF(key->peer);
    free(key);
}

static void free_core(PyObject *self)
{
    struct core *core = (struct core *)self;
    thread_release(core);
    queues_release(core);
    for (Py_ssize_t i = 0; core->peers && i < PyList_Size(core->peers); i++) {
        struct peer *peer = (struct peer *)PyList_GetItem(core->peers, i); /* may live on: its flows' objects have it */
        peer->lane = NULL;
        close_peer_of(peer);
    }
    for (int i = 0; i < KEY_BUCKETS; i++)
        for (struct receive_key *key = core->keys[i], *next; key; key = next) {
            next = key->next;
            free_key(key);
        }
    for (int i = 0; i < core->port_count; i++)
        Py_DECREF(core->ports[i].object);
    for (int i = 0; i < MAX_LANES; i++)
        free(core->lanes[i].data);
    for (int i = 0; i < RECEIVE_BUFFERS; i++) {
        Py_XDECREF(core->received[i].endpoint);
        free(core->received[i].data);
    }
    free(core->capture_memory);
    Py_XDECREF(core->source);
    Py_XDECREF(core->relayed);
    Py_XDECREF(core->peers);
    GIVE_BACK(core->outbound);
    GIVE_BACK(core->inbound);
    free_object(self);
}

/* add_port(port, fd, family) → its number; fd -1: a memory device. */
static PyObject *add_port(PyObject *self, PyObject *args)
{
    struct core *core = (struct core *)self;
    PyObject *object;
    int fd, family;
    if (!PyArg_ParseTuple(args, "Oii", &object, &fd, &family))
        return NULL;
    if (core->port_count == MAX_PORTS) {
        PyErr_SetString(PyExc_ValueError, "too many ports");
        return NULL;
    }
    core->ports[core->port_count] = (struct port){.object = Py_NewRef(object), .fd = fd, .family = family, .segmenting = true};
    return PyLong_FromLong(core->port_count++);
}

static struct port *port_of(struct core *core, int number)
{
    if (number >= 0 && number < core->port_count)
        return &core->ports[number];
    PyErr_SetString(PyExc_ValueError, "no such port");
    return NULL;
}

/* overflow(port) → the count of kernel drops as last seen; overflow(port, value): it was read elsewhere. */
static PyObject *overflow(PyObject *self, PyObject *args)
{
    int number;
    long long value = -1;
    struct port *port;
    if (!PyArg_ParseTuple(args, "i|L", &number, &value) || !(port = port_of((struct core *)self, number)))
        return NULL;
    if (value >= 0)
        port->overflow = (uint32_t)value;
    return PyLong_FromUnsignedLong(port->overflow);
}

/* in_vain(port) → pumps since the last one that something came of, and how often the thread looked away for that. */
static PyObject *in_vain(PyObject *self, PyObject *number)
{
    struct core *core = (struct core *)self;
    struct port *port = port_of(core, (int)PyLong_AsLong(number));
    if (!port)
        return NULL;
    core_hold(core);
    PyObject *result = Py_BuildValue("II", port->in_vain, port->rests);
    core_release(core);
    return result;
}

static PyObject *make_peer(PyObject *self, PyObject *slot)
{
    struct core *core = (struct core *)self;
    unsigned long number = PyLong_AsUnsignedLong(slot);
    struct peer *peer = PyErr_Occurred() ? NULL : new_object(peer_type);
    if (!peer)
        return NULL;
    peer->slot = Py_NewRef(slot);
    peer->number = (uint32_t)number;
    peer->last_heard = -HUGE_VAL;
    if (PyList_Append(core->peers, (PyObject *)peer) < 0)
        Py_CLEAR(peer);
    return (PyObject *)peer;
}

static bool read_address(struct peer *peer, int family, const char *host, unsigned port)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&peer->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&peer->address;
    memset(&peer->address, 0, sizeof peer->address);
    if (family == 4) {
        *v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        peer->address_size = sizeof *v4;
        return inet_pton(AF_INET, host, &v4->sin_addr) == 1;
    }
    *v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    peer->address_size = sizeof *v6;
    return inet_pton(AF_INET6, host, &v6->sin6_addr) == 1;
}

/* open_peer(peer, seal_key, port, host, udp_port, max_datagram, aggregate_limit): frames for it are sent here from now on. Its lane
 * is empty. False, and nothing changed, for an address that is not numeric (an IPv6 scope): Python goes on sending. */
static PyObject *open_peer(PyObject *self, PyObject *args)
{
    struct peer *peer;
    PyObject *key;
    int number;
    const char *host;
    unsigned udp_port, max_datagram, aggregate_limit;
    if (!PyArg_ParseTuple(args, "O!O!isIII", peer_type, &peer, seal_key_type, &key, &number, &host, &udp_port, &max_datagram, &aggregate_limit))
        return NULL;
    struct port *port = port_of((struct core *)self, number);
    if (!port)
        return NULL;
    close_peer_of(peer);
    if (port->fd >= 0 && !read_address(peer, port->family, host, udp_port))
        Py_RETURN_FALSE;
    peer->key = (struct seal_key *)Py_NewRef(key);
    peer->port = port;
    peer->max_datagram = max_datagram;
    peer->aggregate_limit = aggregate_limit < MAX_ENTRY_SIZE ? aggregate_limit : MAX_ENTRY_SIZE;
    Py_RETURN_TRUE;
}

/* open_through(peer, seal_key, via, route, max_datagram, aggregate_limit): the same, in type 8 through another peer, as long as that
 * one has a direct path and the relay layer of its key. */
static PyObject *open_through(PyObject *self, PyObject *args)
{
    struct peer *peer, *via;
    PyObject *key;
    const char *route;
    Py_ssize_t size;
    unsigned max_datagram, aggregate_limit;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O!O!y#II", peer_type, &peer, seal_key_type, &key, peer_type, &via, &route, &size, &max_datagram, &aggregate_limit))
        return NULL;
    if (size != ROUTE_SIZE || via == peer) {
        PyErr_SetString(PyExc_ValueError, "a route has 20 bytes, and leads through another peer");
        return NULL;
    }
    close_peer_of(peer);
    peer->key = (struct seal_key *)Py_NewRef(key);
    peer->via = via;
    memcpy(peer->route, route, ROUTE_SIZE);
    peer->max_datagram = max_datagram;
    peer->aggregate_limit = aggregate_limit < MAX_ENTRY_SIZE ? aggregate_limit : MAX_ENTRY_SIZE;
    Py_RETURN_NONE;
}

static PyObject *close_peer(PyObject *self, PyObject *peer)
{
    (void)self;
    if (Py_TYPE(peer) != peer_type) {
        PyErr_SetString(PyExc_TypeError, "not a Peer of this module");
        return NULL;
    }
    close_peer_of((struct peer *)peer);
    Py_RETURN_NONE;
}

/* add_key(index, key, window, aead, peer): `key` is handed back to Python with what it has to look at. */
static PyObject *add_key(PyObject *self, PyObject *args)
{
    struct core *core = (struct core *)self;
    unsigned index;
    PyObject *object, *window, *aead, *peer;
    if (!PyArg_ParseTuple(args, "IOOOO!", &index, &object, &window, &aead, peer_type, &peer) || !window_of(window) || !aead_of(aead))
        return NULL;
    if (find_key(core, index)) {
        PyErr_SetString(PyExc_ValueError, "the index is in use");
        return NULL;
    }
    struct receive_key *key = calloc(1, sizeof *key);
    if (!key)
        return PyErr_NoMemory();
    key->index = index;
    key->object = Py_NewRef(object);
    key->window_object = Py_NewRef(window);
    key->aead_object = Py_NewRef(aead);
    key->peer = (struct peer *)Py_NewRef(peer);
    key->window = window_of(window);
    key->aead = aead_of(aead);
    key->next = core->keys[index % KEY_BUCKETS];
    core->keys[index % KEY_BUCKETS] = key;
    Py_RETURN_NONE;
}

/* Bytes that came in under the key since the last call; the key is gone after `drop_key`. */
static PyObject *take_bytes(PyObject *self, PyObject *number)
{
    unsigned long index = PyLong_AsUnsignedLong(number);
    struct receive_key *key = PyErr_Occurred() ? NULL : find_key((struct core *)self, (uint32_t)index);
    uint64_t bytes = key ? key->bytes : 0;
    if (PyErr_Occurred())
        return NULL;
    if (key)
        key->bytes = 0;
    return PyLong_FromUnsignedLongLong(bytes);
}

static PyObject *drop_key(PyObject *self, PyObject *number)
{
    struct core *core = (struct core *)self;
    PyObject *bytes = take_bytes(self, number);
    if (!bytes)
        return NULL;
    uint32_t index = (uint32_t)PyLong_AsUnsignedLong(number);
    for (struct receive_key **at = &core->keys[index % KEY_BUCKETS], *key; (key = *at); at = &key->next)
        if (key->index == index) {
            *at = key->next;
            free_key(key);
            break;
        }
    return bytes;
}

/* {reason: count} since the last call. */
static PyObject *take_drops(PyObject *self, PyObject *unused)
{
    struct core *core = (struct core *)self;
    PyObject *result = PyDict_New();
    (void)unused;
    core_hold(core);
    for (int reason = 0; result && reason < MAX_DROP_REASONS; reason++) {
        if (!core->drops[reason])
            continue;
        PyObject *key = PyLong_FromLong(reason), *count = PyLong_FromUnsignedLongLong(core->drops[reason]);
        core->drops[reason] = 0;
        if (!key || !count || PyDict_SetItem(result, key, count) < 0)
            Py_CLEAR(result);
        Py_XDECREF(key);
        Py_XDECREF(count);
    }
    core_release(core);
    return result;
}

/* set_mirrored(bool): somebody looks at every frame from now on, or nobody; a pump that does not queue is not run meanwhile. */
static PyObject *set_mirrored(PyObject *self, PyObject *mirrored)
{
    struct core *core = (struct core *)self;
    int value = PyObject_IsTrue(mirrored);
    if (value < 0)
        return NULL;
    core_hold(core);
    core->mirrored = value && core->queues;
    core_release(core);
    Py_RETURN_NONE;
}

PyObject *finish(struct core *core, PyObject *result)
{
    if (!core->thread && core->failed) {
        core->failed = false;
        PyErr_Restore(core->error[0], core->error[1], core->error[2]);
        core->error[0] = core->error[1] = core->error[2] = NULL;
        Py_XDECREF(result);
        return NULL;
    }
    return result;
}

/* aggregate(engine, peer, entry, vouched): an entry of any kind that Python made; it fits the path. */
static PyObject *aggregate(PyObject *self, PyObject *args)
{
    struct core *core = (struct core *)self;
    PyObject *engine;
    struct peer *peer;
    Py_buffer entry;
    int vouched;
    if (!PyArg_ParseTuple(args, "OO!y*p", &engine, peer_type, &peer, &entry, &vouched))
        return NULL;
    core->engine = engine;
    if (!peer_sends(peer) || entry.len > ENTRY_HEADER_SIZE + MAX_ENTRY_SIZE)
        PyErr_SetString(PyExc_ValueError, "the peer is closed, or the entry too long");
    else
        lane_add(core, peer, NULL, entry.buf, (uint32_t)entry.len, vouched);
    PyBuffer_Release(&entry);
    return PyErr_Occurred() ? NULL : finish(core, Py_NewRef(Py_None));
}

/* flush(engine, peer | None): what is in hand for the peer, or for all, goes out. */
static PyObject *flush(PyObject *self, PyObject *args)
{
    struct core *core = (struct core *)self;
    PyObject *engine, *peer;
    if (!PyArg_ParseTuple(args, "OO", &engine, &peer))
        return NULL;
    core->engine = engine;
    if (Py_TYPE(peer) == peer_type)
        lane_flush(core, (struct peer *)peer);
    else
        lanes_flush(core);
    return finish(core, Py_NewRef(Py_None));
}

static PyObject *pumped(struct core *core, bool more)
{
    PyEval_RestoreThread(core->thread);
    core->thread = NULL;
    core->pumping = core->queued = false;
    core->engine = core->frames = NULL;
    return finish(core, PyBool_FromLong(more));
}

static bool begin_pump(struct core *core, PyObject *engine, PyObject *frames, int fd, double now)
{
    if (core->pumping) {
        PyErr_SetString(PyExc_RuntimeError, "a pump is running already");
        return false;
    }
    core->pumping = true;
    core->queued = core->queues;
    core->engine = engine;
    core->frames = frames;
    core->frames_fd = fd;
    core->now = now;
    return true;
}

/* pump_frames(engine, frames, fd, now) → whether there is more. Raises what the frame port raised. */
static PyObject *pump_frames_of(PyObject *self, PyObject *args)
{
    struct core *core = (struct core *)self;
    PyObject *engine, *frames;
    int fd;
    double now;
    if (!PyArg_ParseTuple(args, "OOid", &engine, &frames, &fd, &now) || !begin_pump(core, engine, frames, fd, now))
        return NULL;
    release_python(core);
    return pumped(core, pump_frames(core));
}

/* pump_datagrams(engine, frames, fd, port, now) → whether there is more. */
static PyObject *pump_datagrams_of(PyObject *self, PyObject *args)
{
    struct core *core = (struct core *)self;
    PyObject *engine, *frames;
    int fd, number;
    double now;
    if (!PyArg_ParseTuple(args, "OOiid", &engine, &frames, &fd, &number, &now))
        return NULL;
    struct port *port = port_of(core, number);
    if (!port || !begin_pump(core, engine, frames, fd, now))
        return NULL;
    release_python(core);
    return pumped(core, pump_datagrams(core, port));
}

PyTypeObject *make_core_type(void)
{
    static PyMethodDef methods[] = {
        {"add_port", add_port, METH_VARARGS, NULL},
        {"overflow", overflow, METH_VARARGS, NULL},
        {"in_vain", in_vain, METH_O, NULL},
        {"make_peer", make_peer, METH_O, NULL},
        {"open_peer", open_peer, METH_VARARGS, NULL},
        {"open_through", open_through, METH_VARARGS, NULL},
        {"close_peer", close_peer, METH_O, NULL},
        {"add_key", add_key, METH_VARARGS, NULL},
        {"take_bytes", take_bytes, METH_O, NULL},
        {"drop_key", drop_key, METH_O, NULL},
        {"take_drops", take_drops, METH_NOARGS, NULL},
        {"set_mirrored", set_mirrored, METH_O, NULL},
        {"start_pump", start_pump, METH_O, NULL},
        {"stop_pump", stop_pump, METH_NOARGS, NULL},
        {"watch_frames", watch_frames, METH_O, NULL},
        {"pump_until", pump_until, METH_O, NULL},
        {"take_upcall", take_upcall, METH_VARARGS, NULL},
        {"hold", hold, METH_NOARGS, NULL},
        {"release", release, METH_NOARGS, NULL},
        {"relay_for", relay_for, METH_VARARGS, NULL},
        {"add_relay_key", add_relay_key, METH_VARARGS, NULL},
        {"add_route", add_route, METH_VARARGS, NULL},
        {"void_routes", void_routes, METH_NOARGS, NULL},
        {"take_relayed", take_relayed, METH_VARARGS, NULL},
        {"aggregate", aggregate, METH_VARARGS, NULL},
        {"flush", flush, METH_VARARGS, NULL},
        {"pump_frames", pump_frames_of, METH_VARARGS, NULL},
        {"pump_datagrams", pump_datagrams_of, METH_VARARGS, NULL},
        {0},
    };
    static PyType_Slot slots[] = {{Py_tp_new, make_core}, {Py_tp_dealloc, free_core}, {Py_tp_methods, methods}, {0, NULL}};
    PyType_Spec spec = {"meshd.forward.engine.native._core.Core", sizeof(struct core), 0, Py_TPFLAGS_DEFAULT, slots};
    return (PyTypeObject *)PyType_FromSpec(&spec);
}
