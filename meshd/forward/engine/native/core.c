/* Core as Python sees it: how it is made, and its pumps. Whatever may call back is given the engine, and holds it for that call only. */
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
    core->moved_at = INT64_MAX;
    bool complete = core->peers && core->capture_memory && thread_prepare(core) && (!queues || queues_prepare(core));
    for (int i = 0; i < MAX_LANES; i++) /* touched, and so real memory, only when needed */
        complete &= (core->lanes[i].data = malloc(LANE_SIZE)) != NULL;
    for (int i = 0; i < RECEIVE_BUFFERS; i++)
        complete &= (core->received[i].data = malloc(RECEIVE_SIZE)) != NULL;
    if (!complete || !reading_prepare(core)) {
        Py_DECREF(core);
        return PyErr_NoMemory();
    }
    return (PyObject *)core;
}

static void free_core(PyObject *self)
{
    struct core *core = (struct core *)self;
    thread_release(core);
    queues_release(core);
    tables_release(core);
    for (int i = 0; i < MAX_LANES; i++)
        free(core->lanes[i].data);
    for (int i = 0; i < RECEIVE_BUFFERS; i++) {
        Py_XDECREF(core->received[i].endpoint);
        free(core->received[i].data);
    }
    free(core->reading);
    free(core->capture_memory);
    Py_XDECREF(core->source);
    Py_XDECREF(core->relayed);
    GIVE_BACK(core->outbound);
    GIVE_BACK(core->inbound);
    free_object(self);
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
        {"segmenting", segmenting, METH_O, NULL},
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
