/* FlowTable: flows.c as Python sees it, with the methods of the Python engine's own (tables.FlowTable). */
#include "engine.h"

PyTypeObject *flow_table_type;

enum { FIRST_DROP_SLOT = 2 }; /* forward/slots.py */
_Static_assert(FIRST_DROP_SLOT + MAX_DROP_REASONS <= 255, "the slots of drop reasons reach that of groups");

/* A key is the 12 bytes of the addresses, or a pair of slot and addresses. */
static bool read_key(PyObject *key, uint32_t *slot, const uint8_t **addresses)
{
    *slot = 0;
    if (PyTuple_Check(key) && PyTuple_Size(key) == 2) {
        *slot = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GetItem(key, 0));
        key = PyTuple_GetItem(key, 1);
    }
    char *bytes;
    Py_ssize_t size;
    if (PyErr_Occurred() || PyBytes_AsStringAndSize(key, &bytes, &size) < 0)
        return false;
    if (size != ADDRESSES_SIZE) {
        PyErr_SetString(PyExc_ValueError, "a flow's addresses are 12 bytes");
        return false;
    }
    *addresses = (const uint8_t *)bytes;
    return true;
}

static PyObject *make_key(const struct flow *flow)
{
    PyObject *addresses = PyBytes_FromStringAndSize((const char *)flow->addresses, ADDRESSES_SIZE);
    return flow->slot ? Py_BuildValue("(IN)", (unsigned)flow->slot, addresses) : addresses;
}

static PyObject *get(PyObject *self, PyObject *key)
{
    uint32_t slot;
    const uint8_t *addresses;
    if (!read_key(key, &slot, &addresses))
        return NULL;
    struct flow *flow = flows_find((struct flow_table *)self, slot, addresses);
    return Py_NewRef(flow ? flow->object : Py_None);
}

static PyObject *use(PyObject *self, PyObject *key)
{
    uint32_t slot;
    const uint8_t *addresses;
    if (!read_key(key, &slot, &addresses))
        return NULL;
    struct flow *flow = flows_find((struct flow_table *)self, slot, addresses);
    if (flow)
        flow_touch((struct flow_table *)self, flow);
    Py_RETURN_NONE;
}

/* What the packet path does with frames of this flow; false with an exception. */
static bool read_action(struct flow *flow)
{
    PyObject *slot = PyObject_GetAttrString(flow->object, "slot");
    PyObject *peer = slot ? PyObject_GetAttrString(flow->object, "peer") : NULL;
    unsigned long number = slot ? PyLong_AsUnsignedLong(slot) : 0;
    flow->action = FLOW_PYTHON;
    if (peer && peer != Py_None) {
        PyObject *core = PyObject_GetAttrString(peer, "core");
        if (core && Py_TYPE(core) != peer_type)
            PyErr_SetString(PyExc_TypeError, "not a Peer of this module");
        flow->peer = (struct peer *)core;
        flow->action = FLOW_PEER;
    } else if (number == 0) {
        flow->action = FLOW_LOCAL;
    } else if (number >= FIRST_DROP_SLOT && number < FIRST_DROP_SLOT + MAX_DROP_REASONS) {
        flow->action = FLOW_DROP;
        flow->reason = (uint8_t)(number - FIRST_DROP_SLOT);
    }
    Py_XDECREF(peer);
    Py_XDECREF(slot);
    return !PyErr_Occurred();
}

static PyObject *add(PyObject *self, PyObject *args)
{
    struct flow_table *table = (struct flow_table *)self;
    PyObject *key, *object;
    uint32_t slot;
    const uint8_t *addresses;
    if (!PyArg_ParseTuple(args, "OO", &key, &object) || !read_key(key, &slot, &addresses))
        return NULL;
    struct flow *flow = flows_add(table, slot, addresses);
    if (!flow)
        return PyErr_NoMemory();
    flow->object = Py_NewRef(object);
    if (!read_action(flow)) {
        flows_forget(table, flow);
        return NULL;
    }
    Py_RETURN_NONE;
}

static const uint8_t *read_mac(PyObject *mac)
{
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(mac, &bytes, &size) < 0)
        return NULL;
    if (size == 6)
        return (const uint8_t *)bytes;
    PyErr_SetString(PyExc_ValueError, "a MAC address is 6 bytes");
    return NULL;
}

/* void_mac(mac | None): forget the flows that have it at either end, or all; how many. */
static PyObject *void_mac(PyObject *self, PyObject *object)
{
    struct flow_table *table = (struct flow_table *)self;
    const uint8_t *mac = object == Py_None ? NULL : read_mac(object);
    if (PyErr_Occurred())
        return NULL;
    if (mac)
        return PyLong_FromUnsignedLong(flows_void(table, mac));
    uint32_t count = table->count;
    while (table->count)
        flows_forget(table, table->use.younger);
    return PyLong_FromUnsignedLong(count);
}

/* Add what was counted here to the flow object's own counters. */
static bool account(struct flow *flow)
{
    if (!flow->frames)
        return true;
    uint64_t frames = flow->frames, bytes = flow->bytes;
    flow->frames = flow->bytes = 0;
    PyObject *done = PyObject_CallMethod(flow->object, "count", "KKd", (unsigned long long)frames, (unsigned long long)bytes, flow->last_used);
    Py_XDECREF(done);
    return done != NULL;
}

/* When the flow was last used, by C or by Python; the caller looks for an exception. */
static double last_used(const struct flow *flow)
{
    PyObject *seen = PyObject_GetAttrString(flow->object, "last_used");
    double by_python = seen ? PyFloat_AsDouble(seen) : -1;
    Py_XDECREF(seen);
    return by_python > flow->last_used ? by_python : flow->last_used;
}

/* sources(since): a dict of the source MACs of flows that were used since then, and when they last were. */
static PyObject *sources(PyObject *self, PyObject *since)
{
    struct flow_table *table = (struct flow_table *)self;
    double limit = PyFloat_AsDouble(since);
    PyObject *result = PyErr_Occurred() ? NULL : PyDict_New();
    for (struct flow *flow = table->use.older; result && flow != &table->use; flow = flow->older) {
        double used = last_used(flow);
        if (PyErr_Occurred()) {
            Py_CLEAR(result);
            break;
        }
        if (used < limit)
            break;
        PyObject *mac = PyBytes_FromStringAndSize((const char *)flow->addresses + 6, 6), *at = PyFloat_FromDouble(used);
        if (!mac || !at || (!PyDict_Contains(result, mac) && PyDict_SetItem(result, mac, at) < 0))
            Py_CLEAR(result);
        Py_XDECREF(mac);
        Py_XDECREF(at);
    }
    return result;
}

/* Its counters are up to date then. */
static bool put(PyObject *result, struct flow *flow)
{
    PyObject *key = make_key(flow);
    bool done = key && account(flow) && PyDict_SetItem(result, key, flow->object) == 0;
    Py_XDECREF(key);
    return done;
}

/* A dict of all flows by key, least recently used first. */
static PyObject *flows(PyObject *self, void *closure)
{
    struct flow_table *table = (struct flow_table *)self;
    PyObject *result = PyDict_New();
    (void)closure;
    for (struct flow *flow = table->use.younger; result && flow != &table->use; flow = flow->younger)
        if (!put(result, flow))
            Py_CLEAR(result);
    return result;
}

/* of_mac(mac): a dict of those that have it at either end, in no order. */
static PyObject *of_mac(PyObject *self, PyObject *object)
{
    struct flow_table *table = (struct flow_table *)self;
    const uint8_t *mac = read_mac(object);
    PyObject *result = mac ? PyDict_New() : NULL;
    for (int end = 0; result && end < ENDS; end++)
        for (struct flow *flow = NULL; result && (flow = flows_next(table, end, mac, flow));)
            if (!put(result, flow))
                Py_CLEAR(result);
    return result;
}

static PyObject *looked_at(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(((struct flow_table *)self)->looked_at);
}

static Py_ssize_t length(PyObject *self) { return ((struct flow_table *)self)->count; }

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"limit", NULL};
    unsigned int limit;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "I", names, &limit))
        return NULL;
    struct flow_table *table = new_object(type);
    if (!table)
        return NULL;
    if (!flows_prepare(table, limit)) {
        Py_DECREF(table);
        return PyErr_NoMemory();
    }
    return (PyObject *)table;
}

static void dealloc(PyObject *self)
{
    flows_release((struct flow_table *)self);
    free_object(self);
}

PyTypeObject *make_flow_table_type(void)
{
    static PyMethodDef methods[] = {
        {"get", get, METH_O, NULL},
        {"use", use, METH_O, NULL},
        {"add", add, METH_VARARGS, NULL},
        {"of_mac", of_mac, METH_O, NULL},
        {"void_mac", void_mac, METH_O, NULL},
        {"sources", sources, METH_O, NULL},
        {0},
    };
    static PyGetSetDef members[] = {{"flows", flows, NULL, NULL, NULL}, {"looked_at", looked_at, NULL, NULL, NULL}, {0}};
    static PyType_Slot slots[] = {
        {Py_tp_new, make}, {Py_tp_dealloc, dealloc}, {Py_tp_methods, methods}, {Py_tp_getset, members}, {Py_sq_length, length}, {0, NULL},
    };
    static PyType_Spec spec = {"meshd.forward.engine.native._core.FlowTable", sizeof(struct flow_table), 0, Py_TPFLAGS_DEFAULT, slots};
    return (PyTypeObject *)PyType_FromSpec(&spec);
}
