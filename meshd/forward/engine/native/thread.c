/* A thread that pumps: it waits for the frame port and the datagram ports itself, moves what it can, and wakes the loop for the rest.
 *
 *   lock → pump each port that is readable → if something waits for Python: eventfd → unlock → wait
 *
 * One lock guards everything that hangs on a core. The loop holds it while it changes tables or takes what waits for it
 * (`Core.hold`, `Core.release`); a pump that sees the loop wait ends with the frame or the datagrams that it has in hand. The thread
 * never takes the GIL. Both pass a turnstile before the lock: whoever came first has it next, so neither starves the other.
 *
 * The thread pumps until the time that the loop has said (`pump_until`). Later, process or machine stood still and keys may have
 * expired: it wakes the loop and waits to be told a new time.
 *
 * Descriptors are level-triggered: what a pump left is there when it waits again. A port that is said to be readable, or in error, and
 * that nothing comes of again and again would keep the thread busy: it looks away from it for a moment. */
#define _GNU_SOURCE /* pthread_setname_np */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine.h"

enum { MAX_EVENTS = MAX_PORTS + 2, FRAMES_EVENT = MAX_PORTS, STOP_EVENT };

enum { REST_MS = 10 };

struct pump_thread {
    pthread_t thread;
    pthread_mutex_t turnstile, lock;
    pthread_cond_t attended; /* upcalls were taken, or a new time was told */
    double until;            /* CLOCK_MONOTONIC */
    atomic_int wanted;       /* the loop waits for the lock */
    int depth;               /* of the loop's holds */
    bool running, stopping, signalled;
    int epoll, upcalls, stop; /* descriptors; `upcalls` is what the loop waits for */
    int frames;
    uint32_t resting; /* ports that are not looked at, a bit each … */
    double rest_ends; /* … until then */
};

bool thread_prepare(struct core *core)
{
    struct pump_thread *pump = core->pump = calloc(1, sizeof *pump);
    if (!pump)
        return false;
    pump->epoll = pump->upcalls = pump->stop = pump->frames = -1;
    pump->until = HUGE_VAL;
    return !pthread_mutex_init(&pump->turnstile, NULL) && !pthread_mutex_init(&pump->lock, NULL) && !pthread_cond_init(&pump->attended, NULL);
}

/* The lock */

void core_hold(struct core *core)
{
    struct pump_thread *pump = core->pump;
    if (pump->depth++)
        return;
    atomic_fetch_add(&pump->wanted, 1);
    pthread_mutex_lock(&pump->turnstile);
    pthread_mutex_lock(&pump->lock);
    pthread_mutex_unlock(&pump->turnstile);
    atomic_fetch_sub(&pump->wanted, 1);
}

void core_release(struct core *core)
{
    struct pump_thread *pump = core->pump;
    if (!--pump->depth)
        pthread_mutex_unlock(&pump->lock);
}

bool is_wanted(const struct core *core) { return atomic_load_explicit(&core->pump->wanted, memory_order_relaxed) != 0; }

/* The thread */

static void write_event(int fd)
{
    uint64_t one = 1;
    ssize_t done = write(fd, &one, sizeof one);
    (void)done; /* EAGAIN: it is readable already */
}

static void stop_watching(struct pump_thread *pump)
{
    if (pump->frames >= 0)
        epoll_ctl(pump->epoll, EPOLL_CTL_DEL, pump->frames, NULL);
    pump->frames = -1;
}

static bool watch(struct pump_thread *pump, int fd, uint32_t number)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.u32 = number}};
    return epoll_ctl(pump->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static void look_away(struct core *core, uint32_t number)
{
    struct pump_thread *pump = core->pump;
    struct port *port = &core->ports[number];
    if (epoll_ctl(pump->epoll, EPOLL_CTL_DEL, port->fd, NULL) == 0) {
        port->rests++;
        pump->resting |= 1u << number;
        pump->rest_ends = core->now + REST_MS * 1e-3;
    }
}

static void look_again(struct core *core)
{
    struct pump_thread *pump = core->pump;
    if (!pump->resting || core->now < pump->rest_ends)
        return;
    for (uint32_t i = 0; i < MAX_PORTS; i++)
        if (pump->resting & 1u << i && watch(pump, core->ports[i].fd, i))
            pump->resting &= ~(1u << i);
}

static void pump_port(struct core *core, uint32_t number)
{
    struct pump_thread *pump = core->pump;
    if (number < MAX_PORTS) {
        pump_datagrams(core, &core->ports[number]);
        if (core->ports[number].in_vain >= MAX_IN_VAIN)
            look_away(core, number);
    } else if (number == FRAMES_EVENT && pump->frames >= 0) {
        pump_frames(core);
        if (core->frames_error)
            stop_watching(pump);
    }
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void call_loop(struct pump_thread *pump)
{
    if (!pump->signalled) {
        pump->signalled = true;
        write_event(pump->upcalls);
    }
}

/* Is the loop to have its turn first? What is looked at (mirrored) is not lost by looking. */
static bool must_wait(struct core *core)
{
    struct pump_thread *pump = core->pump;
    core->now = seconds();
    bool late = core->now > pump->until;
    if (late)
        call_loop(pump);
    return !pump->stopping && (late || (core->mirrored && upcalls_wait(core)));
}

static void *run(void *argument)
{
    struct core *core = argument;
    struct pump_thread *pump = core->pump;
    struct epoll_event events[MAX_EVENTS];
    for (bool stopping = false; !stopping;) {
        int count = epoll_wait(pump->epoll, events, MAX_EVENTS, pump->resting ? REST_MS : -1);
        pthread_mutex_lock(&pump->turnstile);
        pthread_mutex_lock(&pump->lock);
        pthread_mutex_unlock(&pump->turnstile);
        while (must_wait(core))
            pthread_cond_wait(&pump->attended, &pump->lock);
        stopping = pump->stopping;
        core->queued = core->threaded = true;
        core->frames_fd = pump->frames;
        for (int i = 0; i < count && !stopping; i++)
            pump_port(core, events[i].data.u32);
        core->queued = core->threaded = false;
        look_again(core);
        if (upcalls_wait(core))
            call_loop(pump);
        pthread_mutex_unlock(&pump->lock);
    }
    return NULL;
}

static void close_descriptors(struct pump_thread *pump)
{
    int *all[] = {&pump->epoll, &pump->upcalls, &pump->stop};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        if (*all[i] >= 0)
            close(*all[i]);
        *all[i] = -1;
    }
    pump->frames = -1;
}

static bool open_descriptors(struct core *core, int frames)
{
    struct pump_thread *pump = core->pump;
    pump->resting = 0;
    pump->epoll = epoll_create1(EPOLL_CLOEXEC);
    pump->upcalls = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pump->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pump->epoll < 0 || pump->upcalls < 0 || pump->stop < 0 || !watch(pump, pump->stop, STOP_EVENT))
        return false;
    for (int i = 0; i < core->port_count; i++)
        if (!watch(pump, core->ports[i].fd, (uint32_t)i))
            return false;
    pump->frames = frames;
    return watch(pump, frames, FRAMES_EVENT);
}

/* Signals are Python's, and so the main thread's. */
static int begin(struct core *core)
{
    struct pump_thread *pump = core->pump;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&pump->thread, NULL, run, core);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!code) {
        pump->running = true;
        pthread_setname_np(pump->thread, "meshd-pump");
    }
    return code;
}

/* start_pump(fd) → the descriptor that becomes readable when something waits for `take_upcall`. All ports have descriptors. */
PyObject *start_pump(PyObject *self, PyObject *number)
{
    struct core *core = (struct core *)self;
    struct pump_thread *pump = core->pump;
    int frames = (int)PyLong_AsLong(number);
    if (PyErr_Occurred())
        return NULL;
    if (pump->running) {
        PyErr_SetString(PyExc_RuntimeError, "the thread runs already");
        return NULL;
    }
    pump->stopping = pump->signalled = false;
    if (open_descriptors(core, frames)) {
        errno = begin(core);
        if (!errno)
            return PyLong_FromLong(pump->upcalls);
    }
    PyErr_SetFromErrno(PyExc_OSError);
    close_descriptors(pump);
    return NULL;
}

static void stop(struct core *core)
{
    struct pump_thread *pump = core->pump;
    if (!pump || !pump->running)
        return;
    core_hold(core);
    pump->stopping = true;
    pthread_cond_signal(&pump->attended);
    core_release(core);
    write_event(pump->stop);
    PyThreadState *state = PyEval_SaveThread();
    pthread_join(pump->thread, NULL);
    PyEval_RestoreThread(state);
    pump->running = false;
    close_descriptors(pump);
}

/* stop_pump(): what was read has been sent or waits for `take_upcall`. May be called again. */
PyObject *stop_pump(PyObject *self, PyObject *unused)
{
    (void)unused;
    stop((struct core *)self);
    Py_RETURN_NONE;
}

/* watch_frames(fd): another frame port from now on; -1: none. */
PyObject *watch_frames(PyObject *self, PyObject *number)
{
    struct core *core = (struct core *)self;
    struct pump_thread *pump = core->pump;
    int fd = (int)PyLong_AsLong(number);
    if (PyErr_Occurred())
        return NULL;
    core_hold(core);
    bool done = true;
    if (pump->running) {
        stop_watching(pump);
        core->frames_error = 0;
        pump->frames = fd;
        done = fd < 0 || watch(pump, fd, FRAMES_EVENT);
    }
    core_release(core);
    return done ? Py_NewRef(Py_None) : PyErr_SetFromErrno(PyExc_OSError);
}

/* Nothing waits any more: the descriptor is not readable, and a mirrored pump goes on. */
static void all_taken(struct pump_thread *pump)
{
    uint64_t count;
    if (pump->signalled && read(pump->upcalls, &count, sizeof count) < 0 && errno != EAGAIN)
        return;
    pump->signalled = false;
    pthread_cond_signal(&pump->attended);
}

/* pump_until(seconds): of CLOCK_MONOTONIC. */
PyObject *pump_until(PyObject *self, PyObject *number)
{
    struct core *core = (struct core *)self;
    double until = PyFloat_AsDouble(number);
    if (PyErr_Occurred())
        return NULL;
    core_hold(core);
    core->pump->until = until;
    pthread_cond_signal(&core->pump->attended);
    core_release(core);
    Py_RETURN_NONE;
}

/* take_upcall(engine, now) → whether there was one. Raises what Python raised, and OSError once where the frame port failed. */
PyObject *take_upcall(PyObject *self, PyObject *args)
{
    struct core *core = (struct core *)self;
    PyObject *engine;
    double now;
    if (!PyArg_ParseTuple(args, "Od", &engine, &now))
        return NULL;
    core_hold(core);
    core->engine = engine;
    core->now = now;
    PyObject *result = NULL;
    if (core->frames_error) {
        errno = core->frames_error;
        core->frames_error = 0;
        PyErr_SetFromErrno(PyExc_OSError);
    } else {
        bool done = give_upcall(core);
        if (!upcalls_wait(core))
            all_taken(core->pump);
        result = finish(core, PyBool_FromLong(done));
    }
    core_release(core);
    return result;
}

PyObject *hold(PyObject *self, PyObject *unused)
{
    (void)unused;
    core_hold((struct core *)self);
    Py_RETURN_NONE;
}

PyObject *release(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (((struct core *)self)->pump->depth <= 0) {
        PyErr_SetString(PyExc_RuntimeError, "it is not held");
        return NULL;
    }
    core_release((struct core *)self);
    Py_RETURN_NONE;
}

void thread_release(struct core *core)
{
    stop(core);
    free(core->pump);
    core->pump = NULL;
}
