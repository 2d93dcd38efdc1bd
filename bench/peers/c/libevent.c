/* peer-libevent: a bufferevent for each connection, and evbuffers moved from one to the other without a copy, as the libevent
 * book writes servers. A bufferevent reads at most 16 KiB at a time. */
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "peer.h"

/* Bytes queued for one side from which on the other is not read. */
#define FULL (64 * 1024)

enum role { UNKNOWN, RECEIVER, PUBLISHER };

struct conn {
    struct bufferevent *events;
    /* Relay: the other side, for as long as it is there. */
    struct conn *other;
    /* The peer's stream has ended; ours ends when all is sent. */
    int ended;
    /* It is not read until somebody has caught up. */
    int paused;
    /* Broadcast. */
    enum role role;
    int full;
    /* Its place among the receivers, or the publishers. */
    size_t place;
};

/* Bytes that evbuffers of several connections refer to. */
struct shared {
    size_t holders;
    char bytes[];
};

struct list {
    struct conn **conns;
    size_t count, room;
};

static struct event_base *base;
static struct options options;
static struct list receivers, publishers;
static size_t full_receivers;

static struct conn *new_conn(evutil_socket_t fd) {
    struct conn *conn = peer_alloc(sizeof *conn);
    conn->events = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (conn->events == NULL) peer_fail("cannot make a bufferevent", strerror(errno));
    return conn;
}

static void free_conn(struct conn *conn) {
    bufferevent_free(conn->events);
    free(conn);
}

static void pause_reading(struct conn *conn, int pause) {
    if (conn->paused == pause) return;
    conn->paused = pause;
    if (pause)
        bufferevent_disable(conn->events, EV_READ);
    else
        bufferevent_enable(conn->events, EV_READ);
}

static size_t queued(const struct conn *conn) {
    return evbuffer_get_length(bufferevent_get_output(conn->events));
}

/* ---- echo -------------------------------------------------------------------------------------------------------- */

static void echo(struct bufferevent *events, void *context) {
    struct conn *conn = context;
    bufferevent_write_buffer(events, bufferevent_get_input(events));
    /* A peer that does not read is not read either. */
    if (queued(conn) >= FULL) pause_reading(conn, 1);
}

static void echoed(struct bufferevent *events, void *context) {
    struct conn *conn = context;
    (void)events;
    if (conn->ended)
        free_conn(conn);
    else
        pause_reading(conn, 0);
}

static void echo_ended(struct bufferevent *events, short what, void *context) {
    struct conn *conn = context;
    (void)events;
    conn->ended = 1;
    if (!(what & BEV_EVENT_EOF) || queued(conn) == 0) free_conn(conn);
}

static void echo_connection(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int length,
                            void *context) {
    (void)listener;
    (void)from;
    (void)length;
    (void)context;
    struct conn *conn = new_conn(fd);
    bufferevent_setcb(conn->events, echo, echoed, echo_ended, conn);
    bufferevent_enable(conn->events, EV_READ | EV_WRITE);
}

/* ---- relay ------------------------------------------------------------------------------------------------------- */

static void free_pair(struct conn *conn) {
    free_conn(conn->other);
    free_conn(conn);
}

/* The other side has ended its stream and all of it is sent: so ours ends. */
static void shut(struct conn *conn) {
    shutdown(bufferevent_getfd(conn->events), SHUT_WR);
    if (conn->ended && queued(conn->other) == 0) free_pair(conn);
}

static void relay(struct bufferevent *events, void *context) {
    struct conn *from = context;
    bufferevent_write_buffer(from->other->events, bufferevent_get_input(events));
    if (queued(from->other) >= FULL) pause_reading(from, 1);
}

static void relayed(struct bufferevent *events, void *context) {
    struct conn *to = context;
    (void)events;
    if (to->other->ended)
        shut(to);
    else
        pause_reading(to->other, 0);
}

static void relay_event(struct bufferevent *events, short what, void *context) {
    struct conn *from = context;
    if (what & BEV_EVENT_CONNECTED) {
        bufferevent_enable(from->other->events, EV_READ | EV_WRITE);
        return;
    }
    if (!(what & BEV_EVENT_EOF)) {
        free_pair(from);
        return;
    }
    from->ended = 1;
    bufferevent_disable(events, EV_READ);
    if (queued(from->other) == 0) shut(from->other);
}

static void relay_connection(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int length,
                             void *context) {
    (void)listener;
    (void)from;
    (void)length;
    (void)context;
    struct conn *inbound = new_conn(fd);
    struct conn *outbound = new_conn(-1);
    inbound->other = outbound;
    outbound->other = inbound;
    /* What the client sends waits in its socket until the other side is there. */
    bufferevent_setcb(inbound->events, relay, relayed, relay_event, inbound);
    bufferevent_setcb(outbound->events, relay, relayed, relay_event, outbound);
    bufferevent_enable(outbound->events, EV_READ | EV_WRITE);
    int to = peer_connect(&options.to);
    if (to == -1) {
        free_pair(inbound);
        return;
    }
    /* Without an address it waits for the connection that has begun. */
    bufferevent_setfd(outbound->events, to);
    if (bufferevent_socket_connect(outbound->events, NULL, 0) == -1) free_pair(inbound);
}

/* ---- broadcast --------------------------------------------------------------------------------------------------- */

static void add(struct list *list, struct conn *conn) {
    if (list->count == list->room) {
        list->room = list->room == 0 ? 64 : 2 * list->room;
        list->conns = realloc(list->conns, list->room * sizeof *list->conns);
        if (list->conns == NULL) peer_fail("no memory", "too many connections");
    }
    conn->place = list->count;
    list->conns[list->count++] = conn;
}

static void take_out(struct list *list, struct conn *conn) {
    struct conn *last = list->conns[--list->count];
    list->conns[conn->place] = last;
    last->place = conn->place;
}

static void set_full(struct conn *conn, int full) {
    full_receivers += full - conn->full;
    conn->full = full;
}

/* Publishers are read while no receiver is full. */
static void look_who_pauses(void) {
    int pause = full_receivers > 0;
    for (size_t at = 0; at < publishers.count; at++) pause_reading(publishers.conns[at], pause);
}

static void leave(struct conn *conn) {
    if (conn->role == RECEIVER) take_out(&receivers, conn);
    if (conn->role == PUBLISHER) take_out(&publishers, conn);
    set_full(conn, 0);
    free_conn(conn);
    look_who_pauses();
}

static void release(const void *bytes, size_t length, void *context) {
    struct shared *shared = context;
    (void)bytes;
    (void)length;
    if (--shared->holders == 0) free(shared);
}

/* Sends the whole messages of a publisher to all receivers, by reference. */
static void publish(struct evbuffer *input) {
    size_t length = evbuffer_get_length(input);
    length -= length % options.message;
    if (length == 0) return;
    struct shared *shared = peer_alloc(sizeof *shared + length);
    shared->holders = 1;
    evbuffer_remove(input, shared->bytes, length);
    for (size_t at = 0; at < receivers.count; at++) {
        struct conn *conn = receivers.conns[at];
        struct evbuffer *output = bufferevent_get_output(conn->events);
        shared->holders++;
        if (evbuffer_add_reference(output, shared->bytes, length, release, shared) == -1)
            peer_fail("cannot queue a message", strerror(errno));
        if (queued(conn) >= OUTSTANDING * options.message) set_full(conn, 1);
    }
    release(NULL, 0, shared);
    look_who_pauses();
}

static void hear(struct bufferevent *events, void *context) {
    struct conn *conn = context;
    struct evbuffer *input = bufferevent_get_input(events);
    if (conn->role == UNKNOWN) {
        char role;
        if (evbuffer_remove(input, &role, 1) != 1) return;
        if (role == 'R') {
            conn->role = RECEIVER;
            add(&receivers, conn);
        } else if (role == 'P') {
            conn->role = PUBLISHER;
            /* It is called for whole messages only. */
            bufferevent_setwatermark(events, EV_READ, options.message, 0);
            add(&publishers, conn);
        } else {
            leave(conn);
            return;
        }
    }
    if (conn->role == PUBLISHER)
        publish(input);
    else
        evbuffer_drain(input, evbuffer_get_length(input)); /* what receivers say is ignored */
}

/* All that waited is sent. */
static void pushed(struct bufferevent *events, void *context) {
    (void)events;
    set_full(context, 0);
    look_who_pauses();
}

static void broadcast_ended(struct bufferevent *events, short what, void *context) {
    (void)events;
    (void)what;
    leave(context);
}

static void broadcast_connection(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int length,
                                 void *context) {
    (void)listener;
    (void)from;
    (void)length;
    (void)context;
    struct conn *conn = new_conn(fd);
    bufferevent_setcb(conn->events, hear, pushed, broadcast_ended, conn);
    bufferevent_enable(conn->events, EV_READ | EV_WRITE);
}

/* ---- udp --------------------------------------------------------------------------------------------------------- */

/* libevent only says that something can be received; the system calls are our own. */
static void echo_datagrams(evutil_socket_t fd, short what, void *context) {
    static char buffer[DATAGRAM_BUFFER];
    struct sockaddr_storage from;
    (void)what;
    (void)context;
    for (;;) {
        socklen_t length = sizeof from;
        ssize_t received = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length);
        if (received == -1 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        /* One that cannot be sent is lost, as on the way. */
        if (received >= 0) (void)!sendto(fd, buffer, received, 0, (struct sockaddr *)&from, length);
    }
}

/* ---- main -------------------------------------------------------------------------------------------------------- */

static void serve_datagrams(int fd) {
    struct event *readable = event_new(base, fd, EV_READ | EV_PERSIST, echo_datagrams, NULL);
    if (readable == NULL || event_add(readable, NULL) == -1) peer_fail("cannot watch the socket", strerror(errno));
}

static void serve_streams(int fd) {
    static const evconnlistener_cb scenarios[] = {
        [SCENARIO_ECHO] = echo_connection,
        [SCENARIO_BROADCAST] = broadcast_connection,
        [SCENARIO_RELAY] = relay_connection,
    };
    evconnlistener_cb on_connection = scenarios[options.scenario];
    /* A backlog of 0: the socket listens already. */
    unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC;
    if (evconnlistener_new(base, on_connection, NULL, flags, 0, fd) == NULL)
        peer_fail("cannot accept", strerror(errno));
}

int main(int argc, char **argv) {
    options = peer_options(argc, argv);
    struct event_config *config = event_config_new();
    /* Several changes of an interest within a turn are one system call. */
    event_config_set_flag(config, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
    base = event_base_new_with_config(config);
    event_config_free(config);
    if (base == NULL) peer_fail("cannot make an event base", strerror(errno));
    int fd = peer_listen(&options);
    if (options.scenario == SCENARIO_UDP)
        serve_datagrams(fd);
    else
        serve_streams(fd);
    peer_announce();
    return event_base_dispatch(base) == -1;
}
