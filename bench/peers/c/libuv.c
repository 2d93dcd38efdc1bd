/* peer-libuv: streams are read into one shared buffer and written at once (uv_try_write); what the socket has no room for is
 * kept by a uv_write. */
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <uv.h>

#include "peer.h"

enum role { UNKNOWN, RECEIVER, PUBLISHER };

struct conn {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    };
    /* Relay: the other side, for as long as it is there. */
    struct conn *other;
    /* Relay: the peer's stream has ended. */
    int ended;
    int closing;
    /* Broadcast. */
    enum role role;
    int full;
    int paused;
    /* Its place among the receivers, or the publishers. */
    size_t place;
    /* The beginning of a message. */
    char *begun;
    size_t begun_length;
};

/* Bytes that one write or several share. */
struct shared {
    size_t holders;
    char bytes[];
};

/* A write that did not fit the socket. */
struct pending {
    uv_write_t request;
    struct shared *shared;
};

struct list {
    struct conn **conns;
    size_t count, room;
};

static uv_loop_t *loop;
static struct options options;
static uv_connection_cb on_connection;
static struct list receivers, publishers;
static size_t full_receivers;

/* Shared by all: holds nothing between two callbacks. */
static char buffer[RECEIVE_BUFFER];

static void check(const char *what, int result) {
    if (result < 0) peer_fail(what, uv_strerror(result));
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *into) {
    (void)handle;
    (void)suggested;
    *into = uv_buf_init(buffer, sizeof buffer);
}

/* ---- connections ------------------------------------------------------------------------------------------------- */

static void open_conn(struct conn *conn, int family) {
    if (family == AF_UNIX)
        check("cannot make a pipe", uv_pipe_init(loop, &conn->pipe, 0));
    else
        check("cannot make a socket", uv_tcp_init(loop, &conn->tcp));
}

static void free_conn(uv_handle_t *handle) {
    struct conn *conn = (struct conn *)handle;
    free(conn->begun);
    free(conn);
}

static void close_conn(struct conn *conn) {
    if (conn->closing) return;
    conn->closing = 1;
    uv_close(&conn->handle, free_conn);
}

/* NULL if it died before it was accepted. */
static struct conn *accept_conn(uv_stream_t *listener) {
    struct conn *conn = peer_alloc(sizeof *conn);
    open_conn(conn, options.listen.storage.ss_family);
    if (uv_accept(listener, &conn->stream) == 0) return conn;
    close_conn(conn);
    return NULL;
}

static void release(struct shared *shared) {
    if (--shared->holders == 0) free(shared);
}

static struct shared *share(const char *bytes, size_t length) {
    struct shared *shared = peer_alloc(sizeof *shared + length);
    memcpy(shared->bytes, bytes, length);
    return shared;
}

/* Bytes that the socket took. Less than all if it has no room; a failure shows as an error of the next read. */
static size_t try_write(struct conn *conn, char *bytes, size_t length) {
    uv_buf_t piece = uv_buf_init(bytes, length);
    int written = uv_try_write(&conn->stream, &piece, 1);
    return written < 0 ? 0 : written;
}

/* Whether the write was taken; `done` is called in any case then. */
static int write_later(struct conn *conn, struct shared *shared, size_t from, size_t length, uv_write_cb done) {
    struct pending *pending = peer_alloc(sizeof *pending);
    pending->shared = shared;
    shared->holders++;
    uv_buf_t piece = uv_buf_init(shared->bytes + from, length - from);
    if (uv_write(&pending->request, &conn->stream, &piece, 1, done) == 0) return 1;
    release(shared);
    free(pending);
    return 0;
}

static struct conn *end_write(uv_write_t *request) {
    struct conn *conn = (struct conn *)request->handle;
    release(((struct pending *)request)->shared);
    free(request);
    return conn;
}

/* ---- echo -------------------------------------------------------------------------------------------------------- */

static void echo(uv_stream_t *stream, ssize_t received, const uv_buf_t *bytes);

static void echoed(uv_write_t *request, int status) {
    struct conn *conn = end_write(request);
    if (status < 0 || uv_read_start(&conn->stream, give_buffer, echo) < 0) close_conn(conn);
}

static void echo(uv_stream_t *stream, ssize_t received, const uv_buf_t *bytes) {
    struct conn *conn = (struct conn *)stream;
    if (received < 0) {
        close_conn(conn);
        return;
    }
    size_t sent = try_write(conn, bytes->base, received);
    if (sent == (size_t)received) return;
    /* A peer that does not read is not read either. */
    uv_read_stop(stream);
    if (!write_later(conn, share(bytes->base + sent, received - sent), 0, received - sent, echoed)) close_conn(conn);
}

static void echo_connection(uv_stream_t *listener, int status) {
    struct conn *conn = status < 0 ? NULL : accept_conn(listener);
    if (conn != NULL && uv_read_start(&conn->stream, give_buffer, echo) < 0) close_conn(conn);
}

/* ---- relay ------------------------------------------------------------------------------------------------------- */

static void relay(uv_stream_t *stream, ssize_t received, const uv_buf_t *bytes);

static void close_pair(struct conn *conn) {
    struct conn *other = conn->other;
    close_conn(conn);
    if (other != NULL) close_conn(other);
}

static void relayed(uv_write_t *request, int status) {
    struct conn *to = end_write(request);
    /* Of a pair that closes, the other side may be gone. */
    if (to->closing) return;
    if (status < 0 || uv_read_start(&to->other->stream, give_buffer, relay) < 0) close_pair(to);
}

static void shut(uv_shutdown_t *request, int status) {
    struct conn *to = (struct conn *)request->handle;
    free(request);
    if (to->closing) return;
    if (status < 0 || (to->ended && to->other->ended)) close_pair(to);
}

static void relay(uv_stream_t *stream, ssize_t received, const uv_buf_t *bytes) {
    struct conn *from = (struct conn *)stream;
    struct conn *to = from->other;
    if (received == UV_EOF) {
        uv_read_stop(stream);
        from->ended = 1;
        uv_shutdown_t *request = peer_alloc(sizeof *request);
        if (uv_shutdown(request, &to->stream, shut) < 0) {
            free(request);
            close_pair(from);
        }
        return;
    }
    if (received < 0) {
        close_pair(from);
        return;
    }
    size_t sent = try_write(to, bytes->base, received);
    if (sent == (size_t)received) return;
    uv_read_stop(stream);
    if (!write_later(to, share(bytes->base + sent, received - sent), 0, received - sent, relayed)) close_pair(from);
}

static void connected(uv_connect_t *request, int status) {
    struct conn *outbound = (struct conn *)request->handle;
    free(request);
    if (outbound->closing) return;
    if (status < 0 || uv_read_start(&outbound->stream, give_buffer, relay) < 0 ||
        uv_read_start(&outbound->other->stream, give_buffer, relay) < 0)
        close_pair(outbound);
}

static void relay_connection(uv_stream_t *listener, int status) {
    struct conn *inbound = status < 0 ? NULL : accept_conn(listener);
    if (inbound == NULL) return;
    struct conn *outbound = peer_alloc(sizeof *outbound);
    int family = options.to.storage.ss_family;
    open_conn(outbound, family);
    inbound->other = outbound;
    outbound->other = inbound;
    uv_connect_t *request = peer_alloc(sizeof *request);
    if (family == AF_UNIX) {
        uv_pipe_connect(request, &outbound->pipe, ((struct sockaddr_un *)&options.to.storage)->sun_path, connected);
    } else {
        uv_tcp_nodelay(&outbound->tcp, 1);
        if (uv_tcp_connect(request, &outbound->tcp, (struct sockaddr *)&options.to.storage, connected) < 0) {
            free(request);
            close_pair(inbound);
        }
    }
}

/* ---- broadcast --------------------------------------------------------------------------------------------------- */

static void hear(uv_stream_t *stream, ssize_t received, const uv_buf_t *bytes);

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

static void look_whether_full(struct conn *conn) {
    int full = !conn->closing && uv_stream_get_write_queue_size(&conn->stream) >= OUTSTANDING * options.message;
    full_receivers += full - conn->full;
    conn->full = full;
}

/* Publishers are read while no receiver is full. */
static void look_who_pauses(void) {
    int pause = full_receivers > 0;
    for (size_t at = 0; at < publishers.count; at++) {
        struct conn *conn = publishers.conns[at];
        if (conn->paused == pause || conn->closing) continue;
        conn->paused = pause;
        if (pause)
            uv_read_stop(&conn->stream);
        else
            uv_read_start(&conn->stream, give_buffer, hear);
    }
}

static void leave(struct conn *conn) {
    if (conn->closing) return;
    if (conn->role == RECEIVER) take_out(&receivers, conn);
    if (conn->role == PUBLISHER) take_out(&publishers, conn);
    close_conn(conn);
    look_whether_full(conn);
    look_who_pauses();
}

static void pushed(uv_write_t *request, int status) {
    struct conn *conn = end_write(request);
    if (status < 0) {
        leave(conn);
        return;
    }
    look_whether_full(conn);
    look_who_pauses();
}

/* Sends whole messages to all receivers. */
static void publish(char *messages, size_t length) {
    struct shared *shared = NULL;
    for (size_t at = 0; at < receivers.count; at++) {
        struct conn *conn = receivers.conns[at];
        /* Nothing overtakes what waits: then it takes nothing. */
        size_t sent = try_write(conn, messages, length);
        if (sent == length) continue;
        if (shared == NULL) {
            shared = share(messages, length);
            shared->holders = 1;
        }
        /* One that fails tells it when it is read. */
        if (write_later(conn, shared, sent, length, pushed)) look_whether_full(conn);
    }
    if (shared != NULL) {
        release(shared);
        look_who_pauses();
    }
}

/* Sends the messages that are whole, and keeps the rest. */
static void take_messages(struct conn *conn, char *bytes, size_t length) {
    if (conn->begun_length > 0) {
        size_t missing = options.message - conn->begun_length;
        size_t taken = length < missing ? length : missing;
        memcpy(conn->begun + conn->begun_length, bytes, taken);
        conn->begun_length += taken;
        if (taken < missing) return;
        conn->begun_length = 0;
        publish(conn->begun, options.message);
        bytes += taken;
        length -= taken;
    }
    size_t rest = length % options.message;
    if (length > rest) publish(bytes, length - rest);
    memcpy(conn->begun, bytes + length - rest, rest);
    conn->begun_length = rest;
}

static void hear(uv_stream_t *stream, ssize_t received, const uv_buf_t *bytes) {
    struct conn *conn = (struct conn *)stream;
    char *at = bytes->base;
    if (received < 0) {
        leave(conn);
        return;
    }
    if (received > 0 && conn->role == UNKNOWN) {
        if (*at == 'R') {
            conn->role = RECEIVER;
            add(&receivers, conn);
        } else if (*at == 'P') {
            conn->role = PUBLISHER;
            conn->begun = peer_alloc(options.message);
            add(&publishers, conn);
        } else {
            leave(conn);
            return;
        }
        at++;
        received--;
    }
    /* What receivers say is ignored. */
    if (conn->role == PUBLISHER) take_messages(conn, at, received);
}

static void broadcast_connection(uv_stream_t *listener, int status) {
    struct conn *conn = status < 0 ? NULL : accept_conn(listener);
    if (conn != NULL && uv_read_start(&conn->stream, give_buffer, hear) < 0) close_conn(conn);
}

/* ---- udp --------------------------------------------------------------------------------------------------------- */

/* Datagrams of one recvmmsg; libuv gives each 64 KiB of the buffer. */
#define DATAGRAMS 20

static char datagrams[DATAGRAMS * DATAGRAM_BUFFER];

struct datagram {
    uv_udp_send_t request;
    char bytes[];
};

static void give_datagrams(uv_handle_t *handle, size_t suggested, uv_buf_t *into) {
    (void)handle;
    (void)suggested;
    *into = uv_buf_init(datagrams, sizeof datagrams);
}

static void sent_datagram(uv_udp_send_t *request, int status) {
    (void)status; /* one that cannot be sent is lost, as on the way */
    free(request);
}

static void echo_datagram(uv_udp_t *socket, ssize_t received, const uv_buf_t *bytes, const struct sockaddr *from,
                          unsigned flags) {
    (void)flags;
    if (received < 0 || from == NULL) return;
    uv_buf_t piece = uv_buf_init(bytes->base, received);
    if (uv_udp_try_send(socket, &piece, 1, from) != UV_EAGAIN) return;
    struct datagram *datagram = peer_alloc(sizeof *datagram + received);
    memcpy(datagram->bytes, bytes->base, received);
    piece.base = datagram->bytes;
    if (uv_udp_send(&datagram->request, socket, &piece, 1, from, sent_datagram) < 0) free(datagram);
}

/* ---- main -------------------------------------------------------------------------------------------------------- */

static void serve_datagrams(int fd) {
    uv_udp_t *socket = peer_alloc(sizeof *socket);
    check("cannot make a socket", uv_udp_init_ex(loop, socket, AF_UNSPEC | UV_UDP_RECVMMSG));
    check("cannot take the socket", uv_udp_open(socket, fd));
    check("cannot receive", uv_udp_recv_start(socket, give_datagrams, echo_datagram));
}

static void serve_streams(int fd) {
    struct conn *listener = peer_alloc(sizeof *listener);
    int family = options.listen.storage.ss_family;
    open_conn(listener, family);
    int opened = family == AF_UNIX ? uv_pipe_open(&listener->pipe, fd) : uv_tcp_open(&listener->tcp, fd);
    check("cannot take the socket", opened);
    /* The socket listens already, with as long a queue as those of the other peers. */
    check("cannot listen", uv_listen(&listener->stream, 4096, on_connection));
}

int main(int argc, char **argv) {
    options = peer_options(argc, argv);
    loop = uv_default_loop();
    static const uv_connection_cb scenarios[] = {
        [SCENARIO_ECHO] = echo_connection,
        [SCENARIO_BROADCAST] = broadcast_connection,
        [SCENARIO_RELAY] = relay_connection,
    };
    on_connection = scenarios[options.scenario];
    int fd = peer_listen(&options);
    if (options.scenario == SCENARIO_UDP)
        serve_datagrams(fd);
    else
        serve_streams(fd);
    peer_announce();
    return uv_run(loop, UV_RUN_DEFAULT);
}
