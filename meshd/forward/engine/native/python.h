/* Python, as far as its limited API of 3.11 goes: what is compiled here runs under every later version. */
#ifndef MESHD_PYTHON_H
#define MESHD_PYTHON_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

/* Give back a reference to any of our own objects, or none. */
#define GIVE_BACK(object) Py_XDECREF((PyObject *)(object))

/* Free an object of a heap type. */
static inline void free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* A new object of a heap type, all zero. */
static inline void *new_object(PyTypeObject *type)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return allocate(type, 0);
}

#endif
