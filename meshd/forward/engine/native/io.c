/* Reading and writing: system calls where there is a descriptor, the port's own methods where there is none (memory devices).
 *
 * What the kernel refuses is taken as the port itself takes it (net/udp.py): a device without UDP_SEGMENT, an ICMP that was left
 * behind, a datagram that is too long. */
#define _GNU_SOURCE /* sendmmsg, recvmmsg */
#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SO_RXQ_OVFL
#define SO_RXQ_OVFL 40
#endif

enum { LARGE = 16384, FEW_BUFFERS = 4, SEND_TRIES = 2, RECEIVE_TRIES = 8 };

/* What an ICMP about an earlier datagram may leave behind. */
static bool is_stale(int code) { return code == ECONNREFUSED || code == EHOSTUNREACH || code == ENETUNREACH || code == EPROTO; }

int64_t nanoseconds(struct core *core)
{
    if (core->frames_fd < 0 && !core->threaded) { /* memory devices have their own time */
        bool entered = enter_python(core);
        PyObject *seconds = PyObject_CallMethod(core->engine, "native_clock", NULL);
        double value = seconds ? PyFloat_AsDouble(seconds) : 0;
        Py_XDECREF(seconds);
        leave_python(core, entered);
        return (int64_t)(value * 1e9);
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Spread the bytes over the parts, as readv does. */
static size_t scatter(const struct iovec *parts, int count, const uint8_t *data, size_t size)
{
    size_t done = 0;
    for (int i = 0; i < count && done < size; i++) {
        size_t piece = size - done < parts[i].iov_len ? size - done : parts[i].iov_len;
        memcpy(parts[i].iov_base, data + done, piece);
        done += piece;
    }
    return done;
}

/* The bytes of an object with the buffer protocol; the caller releases `view`. */
static bool view_bytes(PyObject *object, Py_buffer *view)
{
    return object && PyObject_GetBuffer(object, view, PyBUF_SIMPLE) == 0;
}

static ssize_t read_python(struct core *core)
{
    bool entered = enter_python(core);
    ssize_t size = IO_FAILED;
    Py_buffer view;
    PyObject *data = PyObject_CallMethod(core->frames, "read", NULL);
    if (data == Py_None) {
        size = IO_NOTHING;
    } else if (view_bytes(data, &view)) {
        size = (ssize_t)scatter(core->parts, core->part_count, view.buf, (size_t)view.len);
        PyBuffer_Release(&view);
    }
    Py_XDECREF(data);
    leave_python(core, entered);
    return size;
}

/* vnet header and frame into `core->parts`. 0 for a frame that the kernel could not describe (EINVAL, "unexpected GSO type" in its
 * log): it is gone, and the next one is behind it. */
ssize_t read_capture(struct core *core)
{
    if (core->frames_fd < 0)
        return read_python(core);
    ssize_t size = readv(core->frames_fd, core->parts, core->part_count);
    if (size > 0)
        return size;
    if (size < 0 && errno == EINVAL)
        return 0;
    if (size == 0 || errno == EAGAIN || errno == EINTR)
        return IO_NOTHING;
    if (core->queued) {
        core->frames_error = errno;
        return IO_FAILED;
    }
    bool entered = enter_python(core);
    PyErr_SetFromErrno(PyExc_OSError);
    leave_python(core, entered);
    return IO_FAILED;
}

static void write_python(struct core *core, const struct iovec *parts, int count, uint32_t frames)
{
    bool entered = enter_python(core);
    PyObject *list = PyList_New(0), *done = NULL;
    for (int i = 0; list && i < count; i++) {
        PyObject *part = PyBytes_FromStringAndSize(parts[i].iov_base, (Py_ssize_t)parts[i].iov_len);
        if (!part || PyList_Append(list, part) < 0)
            Py_CLEAR(list);
        Py_XDECREF(part);
    }
    if (list)
        done = PyObject_CallMethod(core->engine, "native_write", "(OI)", list, (unsigned)frames);
    Py_XDECREF(done);
    Py_XDECREF(list);
    leave_python(core, entered);
}

/* One write, of a frame or of so many in one super-frame. EINVAL is the frame's fault, everything else the device's. */
void write_frame(struct core *core, struct iovec *parts, int count, uint32_t frames)
{
    if (core->frames_fd < 0 && core->threaded) /* it was lost, and there is no other one yet */
        count_drop(core, DROP_TAP_DOWN, frames);
    else if (core->frames_fd < 0)
        write_python(core, parts, count, frames);
    else if (writev(core->frames_fd, parts, count) < 0)
        count_drop(core, errno == EINVAL ? DROP_BAD_FRAME : DROP_TAP_DOWN, frames);
}

static int receive_python(struct core *core, struct port *port, struct received *into)
{
    bool entered = enter_python(core);
    int count = 0;
    PyObject *data, *source, *got = PyObject_CallMethod(port->object, "receive", NULL);
    unsigned int segment, overflow;
    Py_buffer view;
    if (got && got != Py_None && PyArg_ParseTuple(got, "OIOI", &data, &segment, &source, &overflow) && view_bytes(data, &view)) {
        into->size = (uint32_t)(view.len < RECEIVE_SIZE ? view.len : RECEIVE_SIZE);
        into->segment = segment ? segment : into->size;
        memcpy(into->data, view.buf, into->size);
        PyBuffer_Release(&view);
        Py_XDECREF(into->endpoint);
        into->endpoint = Py_NewRef(source);
        count_drop(core, DROP_KERNEL_UDP, overflow - port->overflow);
        port->overflow = overflow;
        count = 1;
    }
    Py_XDECREF(got);
    leave_python(core, entered);
    return core->failed ? IO_FAILED : count;
}

static void read_control(struct core *core, struct port *port, struct msghdr *message, struct received *into)
{
    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
        uint32_t value;
        memcpy(&value, CMSG_DATA(at), sizeof value);
        if (at->cmsg_level == SOL_UDP && at->cmsg_type == UDP_GRO && value) {
            into->segment = value;
        } else if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SO_RXQ_OVFL) {
            count_drop(core, DROP_KERNEL_UDP, value - port->overflow);
            port->overflow = value;
        }
    }
}

/* recvmmsg. What an ICMP left behind is about no datagram that waits, and over with the call that says it: they are asked for again.
 * Of other errors a thread is told nothing here; it sees that the port is readable and nothing comes (thread.c). */
static int receive_some(struct core *core, const struct port *port, struct mmsghdr *messages, unsigned limit)
{
    for (int i = 0; i < RECEIVE_TRIES; i++) {
        int count = recvmmsg(port->fd, messages, limit, MSG_DONTWAIT, NULL);
        if (count >= 0)
            return count;
        if (!is_stale(errno))
            break;
    }
    if (errno == EAGAIN || errno == EINTR || is_stale(errno) || core->queued)
        return 0;
    bool entered = enter_python(core);
    PyErr_SetFromErrno(PyExc_OSError);
    leave_python(core, entered);
    return IO_FAILED;
}

/* What recvmmsg is given, one of each for each buffer, ready at any time. */
struct reading {
    struct mmsghdr messages[RECEIVE_BUFFERS];
    struct iovec parts[RECEIVE_BUFFERS];
    union {
        struct cmsghdr header;
        uint8_t data[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint32_t))]; /* UDP_GRO, SO_RXQ_OVFL */
    } control[RECEIVE_BUFFERS];
};

/* Ready again: the kernel has written over the sizes. Not done for all of them before each read: most reads of a quiet mesh bring one
 * datagram, and find nothing of this in the cache. */
static void offer_buffer(struct core *core, int number)
{
    struct received *into = &core->received[number];
    struct reading *reading = core->reading;
    reading->parts[number] = (struct iovec){into->data, RECEIVE_SIZE};
    reading->messages[number].msg_hdr = (struct msghdr){
        .msg_name = &into->source,
        .msg_namelen = sizeof into->source,
        .msg_iov = &reading->parts[number],
        .msg_iovlen = 1,
        .msg_control = &reading->control[number],
        .msg_controllen = sizeof reading->control[number].data,
    };
}

bool reading_prepare(struct core *core)
{
    core->reading = calloc(1, sizeof *core->reading);
    for (int i = 0; core->reading && i < RECEIVE_BUFFERS; i++)
        offer_buffer(core, i);
    return core->reading != NULL;
}

/* Fill buffers from `first` on, at most `limit`; how many, or IO_FAILED. Few at a time while they are large: they stay in the cache. */
int receive_datagrams(struct core *core, struct port *port, int first, int limit)
{
    core->drained = false;
    if (port->fd < 0)
        return receive_python(core, port, &core->received[first]);
    if (core->large && limit > FEW_BUFFERS)
        limit = FEW_BUFFERS;
    struct mmsghdr *messages = &core->reading->messages[first];
    int count = receive_some(core, port, messages, (unsigned)limit);
    if (count < 0)
        return count;
    core->drained = count < limit;
    core->large = false;
    for (int i = 0; i < count; i++) {
        struct received *into = &core->received[first + i];
        into->size = into->segment = messages[i].msg_len;
        core->large |= into->size >= LARGE;
        read_control(core, port, &messages[i].msg_hdr, into);
        offer_buffer(core, first + i);
    }
    return count;
}

/* The Python engine's own way of sending, with its counting. */
static void send_python(struct core *core, struct peer *hop, struct peer *source, const uint8_t *data, uint32_t bytes, uint32_t size)
{
    bool entered = enter_python(core);
    PyObject *done = PyObject_CallMethod(core->engine, "native_send", "(OOy#I)", hop->slot, source ? source->slot : Py_None, (const char *)data,
                                         (Py_ssize_t)bytes, (unsigned)size);
    Py_XDECREF(done);
    leave_python(core, entered);
}

/* The same codes and reasons as in net/udp.py. */

static bool is_full(int code) { return code == EAGAIN || code == ENOBUFS; }

/* Of a send of several: may it be UDP_SEGMENT that is refused? */
static bool is_no_segmenting(int code) { return code == EIO || code == EINVAL || code == ENOPROTOOPT || code == EOPNOTSUPP; }

static unsigned reason_of(int code)
{
    if (is_full(code))
        return DROP_QUEUE_FULL;
    return code == EMSGSIZE ? DROP_TOO_BIG : DROP_SEND_FAILED;
}

/* One send; `segment` 0: it is one datagram. Returns 0 or why not. */
static int send_run(struct peer *peer, const uint8_t *data, uint32_t bytes, uint32_t segment)
{
    union {
        struct cmsghdr header;
        uint8_t data[CMSG_SPACE(sizeof(uint16_t))];
    } control;
    struct iovec part = {(void *)(uintptr_t)data, bytes};
    struct msghdr message = {.msg_name = &peer->address, .msg_namelen = peer->address_size, .msg_iov = &part, .msg_iovlen = 1};
    if (segment) {
        uint16_t value = (uint16_t)segment;
        memset(&control, 0, sizeof control);
        control.header.cmsg_level = SOL_UDP;
        control.header.cmsg_type = UDP_SEGMENT;
        control.header.cmsg_len = CMSG_LEN(sizeof value);
        memcpy(CMSG_DATA(&control.header), &value, sizeof value);
        message.msg_control = &control;
        message.msg_controllen = sizeof control.data;
    }
    int code = 0;
    for (int i = 0; i < SEND_TRIES; i++) {
        if (sendmsg(peer->port->fd, &message, MSG_DONTWAIT) >= 0)
            return 0;
        code = errno;
        if (!is_stale(code))
            break;
    }
    return code;
}

/* The same cut by us; `sent`: how many went out. Returns why others did not, or 0. Once some were sent, a refusal is about one
 * datagram (a firewall's), and the ones behind it may pass. */
static int send_cut(struct peer *peer, const uint8_t *data, uint32_t bytes, uint32_t size, uint32_t count, uint32_t *sent)
{
    struct mmsghdr messages[MAX_SEND_DATAGRAMS];
    struct iovec parts[MAX_SEND_DATAGRAMS];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = i * size;
        parts[i] = (struct iovec){(void *)(uintptr_t)(data + at), bytes - at < size ? bytes - at : size};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &peer->address, .msg_namelen = peer->address_size, .msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int code = 0;
    for (uint32_t at = 0, tries = 0; at < count;) {
        int done = sendmmsg(peer->port->fd, messages + at, count - at, MSG_DONTWAIT);
        if (done > 0) {
            at += (uint32_t)done;
            *sent += (uint32_t)done;
            continue;
        }
        if (is_stale(errno) && ++tries < SEND_TRIES)
            continue;
        code = errno;
        if (!*sent || is_full(code))
            break;
        at++;
    }
    return code;
}

/* At most MAX_SEND_DATAGRAMS of one size, the last one perhaps shorter, to `hop`. They are those of `source`: the same peer, or one
 * that is reached through it; NULL: of another host. Returns why some were not sent, or 0; what Python sent it has counted. */
unsigned send_parts(struct core *core, struct peer *hop, struct peer *source, const uint8_t *data, uint32_t bytes, uint32_t size, uint32_t count, uint32_t *sent)
{
    struct port *port = hop->port;
    *sent = 0;
    if (port->fd < 0) {
        send_python(core, hop, source, data, bytes, size);
        return 0;
    }
    int code = 0;
    if (count == 1 || port->segmenting) {
        code = send_run(hop, data, bytes, count > 1 ? size : 0);
        if (!code)
            *sent = count;
        if (count == 1 || !is_no_segmenting(code))
            return code ? reason_of(code) : 0;
    }
    code = send_cut(hop, data, bytes, size, count, sent);
    if (*sent) /* it was UDP_SEGMENT that was refused, not the size or the destination */
        port->segmenting = false;
    return code ? reason_of(code) : 0;
}
