/* The small types that Python holds: keys, replay windows, peers. */
#include "engine.h"

PyTypeObject *aead_type, *window_type, *seal_key_type, *peer_type, *core_type;

static PyObject *invalid_tag, *replayed, *too_old;

/* Aead: crypto.aead.Aead over a backend of ours. */

struct aead_object {
    PyObject_HEAD
    struct aead *aead;
};

struct aead *aead_of(PyObject *object)
{
    if (Py_TYPE(object) == aead_type)
        return ((struct aead_object *)object)->aead;
    PyErr_SetString(PyExc_TypeError, "not an Aead of this module");
    return NULL;
}

static PyObject *make_aead(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"suite", "key", "backend", NULL};
    int suite;
    Py_buffer key;
    const char *backend = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iy*|z", names, &suite, &key, &backend))
        return NULL;
    struct aead_object *self = NULL;
    if (key.len != AEAD_KEY_SIZE || suite < AEAD_AES_256_GCM || suite > AEAD_PLAIN)
        PyErr_SetString(PyExc_ValueError, "a suite is 1 to 3, a key has 32 bytes");
    else
        self = new_object(type);
    if (self) {
        self->aead = aead_new((enum aead_suite)suite, key.buf, backend);
        if (!self->aead) {
            PyErr_SetString(PyExc_RuntimeError, "no such AEAD library on this machine");
            Py_CLEAR(self);
        }
    }
    PyBuffer_Release(&key);
    return (PyObject *)self;
}

static void free_aead(PyObject *self)
{
    struct aead *aead = ((struct aead_object *)self)->aead;
    if (aead)
        aead->free(aead);
    free_object(self);
}

static PyObject *seal(PyObject *self, PyObject *args)
{
    struct aead *aead = ((struct aead_object *)self)->aead;
    Py_buffer nonce, plain, aad;
    if (!PyArg_ParseTuple(args, "y*y*y*", &nonce, &plain, &aad))
        return NULL;
    PyObject *result = NULL;
    if (nonce.len != AEAD_NONCE_SIZE)
        PyErr_SetString(PyExc_ValueError, "a nonce has 12 bytes");
    else
        result = PyBytes_FromStringAndSize(NULL, plain.len + AEAD_TAG_SIZE);
    if (result) {
        uint8_t *data = (uint8_t *)PyBytes_AsString(result);
        memcpy(data, plain.buf, (size_t)plain.len);
        if (!aead->seal(aead, nonce.buf, aad.buf, (size_t)aad.len, data, (size_t)plain.len, data + plain.len)) {
            PyErr_SetString(PyExc_RuntimeError, "the AEAD library refuses to seal");
            Py_CLEAR(result);
        }
    }
    PyBuffer_Release(&nonce);
    PyBuffer_Release(&plain);
    PyBuffer_Release(&aad);
    return result;
}

static PyObject *open_sealed(PyObject *self, PyObject *args)
{
    struct aead *aead = ((struct aead_object *)self)->aead;
    Py_buffer nonce, sealed, aad;
    if (!PyArg_ParseTuple(args, "y*y*y*", &nonce, &sealed, &aad))
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t size = sealed.len - AEAD_TAG_SIZE;
    if (nonce.len != AEAD_NONCE_SIZE)
        PyErr_SetString(PyExc_ValueError, "a nonce has 12 bytes");
    else if (size < 0)
        PyErr_SetNone(invalid_tag);
    else
        result = PyBytes_FromStringAndSize(NULL, size);
    if (result) {
        uint8_t *data = (uint8_t *)PyBytes_AsString(result);
        memcpy(data, sealed.buf, (size_t)size);
        if (!aead->open(aead, nonce.buf, aad.buf, (size_t)aad.len, data, (size_t)size, (const uint8_t *)sealed.buf + size)) {
            PyErr_SetNone(invalid_tag);
            Py_CLEAR(result);
        }
    }
    PyBuffer_Release(&nonce);
    PyBuffer_Release(&sealed);
    PyBuffer_Release(&aad);
    return result;
}

static PyObject *backend_name(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(((struct aead_object *)self)->aead->backend->name);
}

/* ReplayWindow: the twin of crypto.replay.ReplayWindow. */

struct window_object {
    PyObject_HEAD
    struct replay_window window;
};

struct replay_window *window_of(PyObject *object)
{
    if (Py_TYPE(object) == window_type)
        return &((struct window_object *)object)->window;
    PyErr_SetString(PyExc_TypeError, "not a ReplayWindow of this module");
    return NULL;
}

static PyObject *check(PyObject *self, PyObject *number)
{
    uint64_t counter = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred())
        return NULL;
    switch (replay_check(window_of(self), counter)) {
    case REPLAY_DUPLICATE:
        return Py_NewRef(replayed);
    case REPLAY_TOO_OLD:
        return Py_NewRef(too_old);
    case REPLAY_NEW:
        break;
    }
    Py_RETURN_NONE;
}

static PyObject *commit(PyObject *self, PyObject *number)
{
    uint64_t counter = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred())
        return NULL;
    replay_commit(window_of(self), counter);
    Py_RETURN_NONE;
}

static PyObject *commit_run(PyObject *self, PyObject *number)
{
    struct replay_window *window = window_of(self);
    uint64_t end = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred())
        return NULL;
    for (uint64_t counter = window->any ? window->head + 1 : 0; counter < end; counter++)
        replay_commit(window, counter);
    Py_RETURN_NONE;
}

/* Counts of ours that Python reads, or writes. Not by a PyMemberDef: what is not compiled here the thread sanitizer does not see. */
#define AT(type, field) ((void *)offsetof(type, field))

static uint64_t *count_at(PyObject *self, void *offset) { return (uint64_t *)(void *)((char *)self + (uintptr_t)offset); }

static PyObject *get_count(PyObject *self, void *offset) { return PyLong_FromUnsignedLongLong(*count_at(self, offset)); }

static int set_count(PyObject *self, PyObject *number, void *offset)
{
    uint64_t count = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred())
        return -1;
    *count_at(self, offset) = count;
    return 0;
}

static PyObject *get_head(PyObject *self, void *closure)
{
    struct replay_window *window = window_of(self);
    (void)closure;
    return window->any ? PyLong_FromUnsignedLongLong(window->head) : PyLong_FromLong(-1);
}

static PyObject *get_lost(PyObject *self, void *closure)
{
    struct replay_window *window = window_of(self);
    (void)closure;
    return PyLong_FromUnsignedLongLong(window->any ? window->head + 1 - window->received : 0);
}

/* SealKey: what sealing under one send key needs; its counter is the only one. */

static PyObject *make_seal_key(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"aead", "head", "head_vouched", NULL};
    PyObject *aead;
    const char *head, *vouched;
    Py_ssize_t head_size, vouched_size;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "Oy#y#", names, &aead, &head, &head_size, &vouched, &vouched_size))
        return NULL;
    if (head_size != 8 || vouched_size != 8) {
        PyErr_SetString(PyExc_ValueError, "a header without its counter has 8 bytes");
        return NULL;
    }
    struct aead *found = aead_of(aead);
    struct seal_key *self = found ? new_object(type) : NULL;
    if (!self)
        return NULL;
    self->aead_object = Py_NewRef(aead);
    self->aead = found;
    memcpy(self->head[0], head, 8);
    memcpy(self->head[1], vouched, 8);
    return (PyObject *)self;
}

/* set_relay(key): what the relay layer of the same session is sealed with. */
static PyObject *set_relay(PyObject *self, PyObject *relay)
{
    struct seal_key *key = (struct seal_key *)self;
    if (Py_TYPE(relay) != seal_key_type || relay == self) {
        PyErr_SetString(PyExc_TypeError, "not another SealKey of this module");
        return NULL;
    }
    GIVE_BACK(key->relay);
    key->relay = (struct seal_key *)Py_NewRef(relay);
    Py_RETURN_NONE;
}

static void free_seal_key(PyObject *self)
{
    GIVE_BACK(((struct seal_key *)self)->relay);
    Py_XDECREF(((struct seal_key *)self)->aead_object);
    free_object(self);
}

/* Peer: made by Core.make_peer. */

static void free_peer(PyObject *self)
{
    struct peer *peer = (struct peer *)self;
    Py_XDECREF(peer->slot);
    GIVE_BACK(peer->key);
    free_object(self);
}

/* frames_out, datagrams_out, bytes_out, frames_in since the last call, and when the peer was last heard. */
static PyObject *take(PyObject *self, PyObject *unused)
{
    struct peer *peer = (struct peer *)self;
    (void)unused;
    PyObject *counts = Py_BuildValue("(KKKKd)", (unsigned long long)peer->frames_out, (unsigned long long)peer->datagrams_out,
                                     (unsigned long long)peer->bytes_out, (unsigned long long)peer->frames_in, peer->last_heard);
    peer->frames_out = peer->datagrams_out = peer->bytes_out = peer->frames_in = 0;
    return counts;
}

static PyObject *is_open(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(peer_sends((struct peer *)self));
}

static PyTypeObject *type_from(const char *name, size_t size, PyType_Slot *slots, unsigned flags)
{
    PyType_Spec spec = {name, (int)size, 0, Py_TPFLAGS_DEFAULT | flags, slots};
    return (PyTypeObject *)PyType_FromSpec(&spec);
}

static bool find_names(void)
{
    PyObject *exceptions = PyImport_ImportModule("cryptography.exceptions");
    PyObject *drops = PyImport_ImportModule("meshd.drops");
    PyObject *reasons = drops ? PyObject_GetAttrString(drops, "DropReason") : NULL;
    invalid_tag = exceptions ? PyObject_GetAttrString(exceptions, "InvalidTag") : NULL;
    replayed = reasons ? PyObject_GetAttrString(reasons, "REPLAYED") : NULL;
    too_old = reasons ? PyObject_GetAttrString(reasons, "TOO_OLD") : NULL;
    Py_XDECREF(reasons);
    Py_XDECREF(drops);
    Py_XDECREF(exceptions);
    return invalid_tag && replayed && too_old;
}

bool make_types(void)
{
    static PyMethodDef aead_methods[] = {{"seal", seal, METH_VARARGS, NULL}, {"open", open_sealed, METH_VARARGS, NULL}, {0}};
    static PyGetSetDef aead_members[] = {{"backend", backend_name, NULL, NULL, NULL}, {0}};
    static PyType_Slot aead_slots[] = {
        {Py_tp_new, make_aead}, {Py_tp_dealloc, free_aead}, {Py_tp_methods, aead_methods}, {Py_tp_getset, aead_members}, {0, NULL}};

    static PyMethodDef window_methods[] = {
        {"check", check, METH_O, NULL}, {"commit", commit, METH_O, NULL}, {"commit_run", commit_run, METH_O, NULL}, {0}};
    static PyGetSetDef window_members[] = {
        {"head", get_head, NULL, NULL, NULL},
        {"lost", get_lost, NULL, NULL, NULL},
        {"received", get_count, NULL, NULL, AT(struct window_object, window.received)},
        {"late", get_count, NULL, NULL, AT(struct window_object, window.late)},
        {"duplicate", get_count, NULL, NULL, AT(struct window_object, window.duplicate)},
        {"too_old", get_count, NULL, NULL, AT(struct window_object, window.too_old)},
        {0},
    };
    static PyType_Slot window_slots[] = {{Py_tp_methods, window_methods}, {Py_tp_getset, window_members}, {0, NULL}};

    static PyGetSetDef seal_key_members[] = {{"counter", get_count, set_count, NULL, AT(struct seal_key, counter)}, {0}};
    static PyMethodDef seal_key_methods[] = {{"set_relay", set_relay, METH_O, NULL}, {0}};
    static PyType_Slot seal_key_slots[] = {{Py_tp_new, make_seal_key},
                                           {Py_tp_dealloc, free_seal_key},
                                           {Py_tp_getset, seal_key_members},
                                           {Py_tp_methods, seal_key_methods},
                                           {0, NULL}};

    static PyMethodDef peer_methods[] = {{"take", take, METH_NOARGS, NULL}, {0}};
    static PyGetSetDef peer_members[] = {{"open", is_open, NULL, NULL, NULL}, {0}};
    static PyType_Slot peer_slots[] = {{Py_tp_dealloc, free_peer}, {Py_tp_methods, peer_methods}, {Py_tp_getset, peer_members}, {0, NULL}};

#define NAME "meshd.forward.engine.native._core."
    aead_type = type_from(NAME "Aead", sizeof(struct aead_object), aead_slots, 0);
    window_type = type_from(NAME "ReplayWindow", sizeof(struct window_object), window_slots, 0);
    seal_key_type = type_from(NAME "SealKey", sizeof(struct seal_key), seal_key_slots, 0);
    peer_type = type_from(NAME "Peer", sizeof(struct peer), peer_slots, Py_TPFLAGS_DISALLOW_INSTANTIATION);
    return aead_type && window_type && seal_key_type && peer_type && find_names();
}
