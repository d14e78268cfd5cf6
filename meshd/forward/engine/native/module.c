/* The module `_core`: its types, and the numbers that must be those of the Python engine. */
#include "engine.h"

bool make_types(void);
PyTypeObject *make_core_type(void);

static PyObject *backends(PyObject *module, PyObject *unused)
{
    PyObject *names = PyList_New(0);
    (void)module;
    (void)unused;
    for (const struct aead_backend *const *at = aead_backends(); names && *at; at++) {
        PyObject *name = PyUnicode_FromString((*at)->name);
        if (!name || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *has_aes(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(cpu_has_aes());
}

/* DROPS: the reasons that C counts, by name. */
static PyObject *drop_names(void)
{
#define DROP(name) #name, DROP_##name
    return Py_BuildValue("{sisisisisisisisisisisisisisisisi}", DROP(TRUNCATED), DROP(UNKNOWN_VERSION), DROP(UNKNOWN_TYPE), DROP(UNKNOWN_SEGMENT),
                         DROP(UNKNOWN_INDEX), DROP(BAD_TAG), DROP(REPLAYED), DROP(TOO_OLD), DROP(KEY_EXPIRED), DROP(BAD_FRAME),
                         DROP(QUEUE_FULL), DROP(SEND_FAILED), DROP(TAP_DOWN), DROP(KERNEL_UDP), DROP(NO_PATH),
                         DROP(TOO_BIG));
}

static int add_drop_names(PyObject *module)
{
    PyObject *names = drop_names();
    int result = PyModule_AddObjectRef(module, "DROPS", names);
    Py_XDECREF(names);
    return result;
}

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC PyInit__core(void)
{
    static PyMethodDef functions[] = {
        {"backends", backends, METH_NOARGS, NULL},
        {"cpu_has_aes", has_aes, METH_NOARGS, NULL},
        {0},
    };
    static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_core", .m_size = -1, .m_methods = functions};
    flow_table_type = make_flow_table_type();
    if (!make_types() || !flow_table_type || !(core_type = make_core_type()))
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (!module || PyModule_AddType(module, aead_type) < 0 || PyModule_AddType(module, window_type) < 0 ||
        PyModule_AddType(module, seal_key_type) < 0 || PyModule_AddType(module, peer_type) < 0 ||
        PyModule_AddType(module, flow_table_type) < 0 || PyModule_AddType(module, core_type) < 0 ||
        PyModule_AddIntMacro(module, MAX_SEND_DATAGRAMS) < 0 || PyModule_AddIntMacro(module, MAX_SEND_BYTES) < 0 ||
        PyModule_AddIntMacro(module, MAX_KEY_DATAGRAMS) < 0 || PyModule_AddIntMacro(module, MAX_ENTRY_SIZE) < 0 ||
        PyModule_AddIntMacro(module, PUMP_BYTES) < 0 || PyModule_AddIntMacro(module, PUMP_NANOSECONDS) < 0 ||
        PyModule_AddIntMacro(module, DATA_OVERHEAD) < 0 || PyModule_AddIntMacro(module, RELAY_OVERHEAD) < 0 || PyModule_AddIntMacro(module, MAX_SERIES) < 0 ||
        PyModule_AddIntMacro(module, REPLAY_WINDOW) < 0 || PyModule_AddIntMacro(module, MAX_ROUTES) < 0 ||
        PyModule_AddIntMacro(module, MAX_IN_VAIN) < 0 || add_drop_names(module) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
