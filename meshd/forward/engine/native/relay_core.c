/* What Python sees of relaying: methods of Core. */
#include "engine.h"

/* relay_for(origin): this host's short id; before, Python has all of type 8. */
PyObject *relay_for(PyObject *self, PyObject *args)
{
    struct core *core = (struct core *)self;
    const char *origin;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "y#", &origin, &size))
        return NULL;
    if (size != SHORT_ID_SIZE) {
        PyErr_SetString(PyExc_ValueError, "a short id has 8 bytes");
        return NULL;
    }
    memcpy(core->origin, origin, SHORT_ID_SIZE);
    core->relays = true;
    Py_RETURN_NONE;
}

/* add_relay_key(index, window, aead): the relay layer of a receive key. */
PyObject *add_relay_key(PyObject *self, PyObject *args)
{
    unsigned index;
    PyObject *window, *aead;
    if (!PyArg_ParseTuple(args, "IOO", &index, &window, &aead) || !window_of(window) || !aead_of(aead))
        return NULL;
    struct receive_key *key = find_key((struct core *)self, index);
    if (!key || key->relay_aead) {
        PyErr_SetString(PyExc_ValueError, "there is no such key, or it has its relay layer");
        return NULL;
    }
    key->relay_window_object = Py_NewRef(window);
    key->relay_aead_object = Py_NewRef(aead);
    key->relay_window = window_of(window);
    key->relay_aead = aead_of(aead);
    Py_RETURN_NONE;
}

/* add_route(destination, via) */
PyObject *add_route(PyObject *self, PyObject *args)
{
    const char *destination;
    Py_ssize_t size;
    PyObject *via;
    if (!PyArg_ParseTuple(args, "y#O!", &destination, &size, peer_type, &via))
        return NULL;
    if (size != SHORT_ID_SIZE) {
        PyErr_SetString(PyExc_ValueError, "a short id has 8 bytes");
        return NULL;
    }
    put_route((struct core *)self, (const uint8_t *)destination, (struct peer *)via);
    Py_RETURN_NONE;
}

PyObject *void_routes(PyObject *self, PyObject *unused)
{
    struct core *core = (struct core *)self;
    (void)unused;
    memset(core->routes, 0, sizeof core->routes);
    Py_RETURN_NONE;
}

/* take_relayed(peer) → datagrams and bytes sent to it as the next hop, bytes that came from it as one, since the last call. */
PyObject *take_relayed(PyObject *self, PyObject *args)
{
    struct peer *peer;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!", peer_type, &peer))
        return NULL;
    PyObject *counts = Py_BuildValue("(KKK)", (unsigned long long)peer->relayed_out, (unsigned long long)peer->relayed_bytes_out,
                                     (unsigned long long)peer->relayed_bytes_in);
    peer->relayed_out = peer->relayed_bytes_out = peer->relayed_bytes_in = 0;
    return counts;
}
