#include "flows.h"

#include <stdlib.h>
#include <sys/random.h>

#include "engine.h"

PyTypeObject *flow_table_type;

enum { FIRST_BUCKETS = 256, FIRST_DROP_SLOT = 2 };

/* Keyed, so that nobody can invent addresses that all fall into one bucket. */
static uint32_t bucket_of(const struct flow_table *table, uint32_t slot, const uint8_t *addresses)
{
    uint64_t a = (load_le64(addresses) ^ table->seed[0]) * 0x9E3779B97F4A7C15u;
    uint64_t b = (((uint64_t)slot << 32 | load_le32(addresses + 8)) ^ table->seed[1]) * 0xC2B2AE3D27D4EB4Fu;
    uint64_t mixed = (a ^ a >> 32 ^ b) * 0x165667B19E3779F9u;
    return (uint32_t)(mixed >> 32) & table->mask;
}

struct flow *flows_find(struct flow_table *table, uint32_t slot, const uint8_t *addresses)
{
    struct flow *flow = table->buckets[bucket_of(table, slot, addresses)];
    while (flow && (flow->slot != slot || memcmp(flow->addresses, addresses, ADDRESSES_SIZE) != 0))
        flow = flow->next;
    return flow;
}

static void unlink_use(struct flow *flow)
{
    flow->older->younger = flow->younger;
    flow->younger->older = flow->older;
}

static void make_youngest(struct flow_table *table, struct flow *flow)
{
    flow->older = table->use.older;
    flow->younger = &table->use;
    flow->older->younger = flow;
    table->use.older = flow;
}

static void touch(struct flow_table *table, struct flow *flow)
{
    if (table->use.older == flow)
        return;
    unlink_use(flow);
    make_youngest(table, flow);
}

void flow_used(struct flow_table *table, struct flow *flow, uint32_t bytes, double now)
{
    flow->frames++;
    flow->bytes += bytes;
    flow->last_used = now;
    touch(table, flow);
}

static void forget(struct flow_table *table, struct flow *flow)
{
    struct flow **at = &table->buckets[bucket_of(table, flow->slot, flow->addresses)];
    while (*at != flow)
        at = &(*at)->next;
    *at = flow->next;
    unlink_use(flow);
    table->count--;
    GIVE_BACK(flow->peer);
    Py_DECREF(flow->object);
    free(flow);
}

static void forget_all(struct flow_table *table)
{
    while (table->use.younger != &table->use)
        forget(table, table->use.younger);
}

static bool grow(struct flow_table *table)
{
    uint32_t buckets = table->buckets ? 2 * (table->mask + 1) : FIRST_BUCKETS;
    struct flow **bigger = calloc(buckets, sizeof *bigger);
    if (!bigger)
        return false;
    free(table->buckets);
    table->buckets = bigger;
    table->mask = buckets - 1;
    for (struct flow *flow = table->use.younger; flow != &table->use; flow = flow->younger) {
        struct flow **at = &table->buckets[bucket_of(table, flow->slot, flow->addresses)];
        flow->next = *at;
        *at = flow;
    }
    return true;
}

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
        touch((struct flow_table *)self, flow);
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
        flow->peer = (struct peer *)PyObject_GetAttrString(peer, "core");
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
    struct flow *flow = flows_find(table, slot, addresses);
    if (flow)
        forget(table, flow);
    if (table->count >= table->limit)
        forget(table, table->use.younger);
    flow = calloc(1, sizeof *flow);
    if (!flow || (table->count > table->mask && !grow(table))) {
        free(flow);
        return PyErr_NoMemory();
    }
    flow->slot = slot;
    memcpy(flow->addresses, addresses, ADDRESSES_SIZE);
    flow->object = Py_NewRef(object);
    if (!read_action(flow)) {
        GIVE_BACK(flow->peer);
        Py_DECREF(object);
        free(flow);
        return NULL;
    }
    struct flow **bucket = &table->buckets[bucket_of(table, slot, addresses)];
    flow->next = *bucket;
    *bucket = flow;
    make_youngest(table, flow);
    table->count++;
    Py_RETURN_NONE;
}

/* void_mac(mac | None): forget the flows that have it at either end, or all; how many. */
static PyObject *void_mac(PyObject *self, PyObject *mac)
{
    struct flow_table *table = (struct flow_table *)self;
    char *bytes = NULL;
    Py_ssize_t size = 6;
    if (mac != Py_None && PyBytes_AsStringAndSize(mac, &bytes, &size) < 0)
        return NULL;
    if (size != 6) {
        PyErr_SetString(PyExc_ValueError, "a MAC address is 6 bytes");
        return NULL;
    }
    uint32_t before = table->count;
    for (struct flow *flow = table->use.younger, *next; flow != &table->use; flow = next) {
        next = flow->younger;
        if (!bytes || memcmp(flow->addresses, bytes, 6) == 0 || memcmp(flow->addresses + 6, bytes, 6) == 0)
            forget(table, flow);
    }
    return PyLong_FromUnsignedLong(before - table->count);
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

/* A dict of all flows by key, least recently used first, their counters up to date. */
static PyObject *flows(PyObject *self, void *closure)
{
    struct flow_table *table = (struct flow_table *)self;
    PyObject *result = PyDict_New();
    (void)closure;
    for (struct flow *flow = table->use.younger; result && flow != &table->use; flow = flow->younger) {
        PyObject *key = make_key(flow);
        if (!key || !account(flow) || PyDict_SetItem(result, key, flow->object) < 0)
            Py_CLEAR(result);
        Py_XDECREF(key);
    }
    return result;
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
    table->use.older = table->use.younger = &table->use;
    table->limit = limit ? limit : 1;
    if (getrandom(table->seed, sizeof table->seed, 0) != sizeof table->seed || !grow(table)) {
        Py_DECREF(table);
        return PyErr_NoMemory();
    }
    return (PyObject *)table;
}

static void dealloc(PyObject *self)
{
    struct flow_table *table = (struct flow_table *)self;
    if (table->buckets)
        forget_all(table);
    free(table->buckets);
    free_object(self);
}

PyTypeObject *make_flow_table_type(void)
{
    static PyMethodDef methods[] = {
        {"get", get, METH_O, NULL},
        {"use", use, METH_O, NULL},
        {"add", add, METH_VARARGS, NULL},
        {"void_mac", void_mac, METH_O, NULL},
        {0},
    };
    static PyGetSetDef members[] = {{"flows", flows, NULL, NULL, NULL}, {0}};
    static PyType_Slot slots[] = {
        {Py_tp_new, make}, {Py_tp_dealloc, dealloc}, {Py_tp_methods, methods}, {Py_tp_getset, members}, {Py_sq_length, length}, {0, NULL},
    };
    static PyType_Spec spec = {"meshd.forward.engine.native._core.FlowTable", sizeof(struct flow_table), 0, Py_TPFLAGS_DEFAULT, slots};
    return (PyTypeObject *)PyType_FromSpec(&spec);
}
