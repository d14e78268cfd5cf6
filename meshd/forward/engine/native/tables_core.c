/* Core: the ports, peers and receive keys that the packet path works with, as Python puts them there. Flows: flow_table.c. */
#include <arpa/inet.h>
#include <math.h>
#include <stdlib.h>

#include "engine.h"

/* add_port(port, fd, family, segmenting) → its number; fd -1: a memory device. */
PyObject *add_port(PyObject *self, PyObject *args)
{
    struct core *core = (struct core *)self;
    PyObject *object;
    int fd, family, has_segment;
    if (!PyArg_ParseTuple(args, "Oiip", &object, &fd, &family, &has_segment))
        return NULL;
    if (core->port_count == MAX_PORTS) {
        PyErr_SetString(PyExc_ValueError, "too many ports");
        return NULL;
    }
    core->ports[core->port_count] = (struct port){.object = Py_NewRef(object), .fd = fd, .family = family, .segmenting = has_segment};
    return PyLong_FromLong(core->port_count++);
}

struct port *port_of(struct core *core, int number)
{
    if (number >= 0 && number < core->port_count)
        return &core->ports[number];
    PyErr_SetString(PyExc_ValueError, "no such port");
    return NULL;
}

/* overflow(port) → the count of kernel drops as last seen; overflow(port, value): it was read elsewhere. */
PyObject *overflow(PyObject *self, PyObject *args)
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
PyObject *in_vain(PyObject *self, PyObject *number)
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

/* segmenting(port) → whether it has UDP_SEGMENT, as far as has been found out. */
PyObject *segmenting(PyObject *self, PyObject *number)
{
    struct core *core = (struct core *)self;
    struct port *port = port_of(core, (int)PyLong_AsLong(number));
    if (!port)
        return NULL;
    core_hold(core);
    PyObject *result = PyBool_FromLong(port->segmenting);
    core_release(core);
    return result;
}

static void close_peer_of(struct peer *peer)
{
    Py_CLEAR(peer->key);
    peer->port = NULL;
    peer->via = NULL;
}

PyObject *make_peer(PyObject *self, PyObject *slot)
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
 * is empty. False, and the peer is closed, for an address that is not numeric (an IPv6 scope): Python sends. */
PyObject *open_peer(PyObject *self, PyObject *args)
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
PyObject *open_through(PyObject *self, PyObject *args)
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

PyObject *close_peer(PyObject *self, PyObject *peer)
{
    (void)self;
    if (Py_TYPE(peer) != peer_type) {
        PyErr_SetString(PyExc_TypeError, "not a Peer of this module");
        return NULL;
    }
    close_peer_of((struct peer *)peer);
    Py_RETURN_NONE;
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

/* add_key(index, key, window, aead, peer): `key` is handed back to Python with what it has to look at. */
PyObject *add_key(PyObject *self, PyObject *args)
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
PyObject *take_bytes(PyObject *self, PyObject *number)
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

PyObject *drop_key(PyObject *self, PyObject *number)
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

void tables_release(struct core *core)
{
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
    Py_XDECREF(core->peers);
}
