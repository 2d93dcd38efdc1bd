/* What both C peers share and no measurement sees: the command line and the listening socket. */
#ifndef PEER_H
#define PEER_H

#include <stddef.h>
#include <sys/socket.h>

/* Bytes of a receive buffer: the same for all peers. */
#define RECEIVE_BUFFER (16 * 1024)

/* The longest datagram that there is. */
#define DATAGRAM_BUFFER (64 * 1024)

/* Messages that may wait for the slowest receiver of a broadcast; publishers are not read meanwhile. */
#define OUTSTANDING 1000

enum scenario {
    SCENARIO_ECHO,
    SCENARIO_BROADCAST,
    SCENARIO_UDP,
    SCENARIO_RELAY,
};

struct address {
    struct sockaddr_storage storage;
    socklen_t length;
};

struct options {
    enum scenario scenario;
    struct address listen;
    /* Bytes of a message of the broadcast. */
    size_t message;
    /* Where the relay connects to. */
    struct address to;
};

/* Reads the command line, raises the descriptor limit and ignores SIGPIPE. Ends the process where the command line makes
 * no sense. */
struct options peer_options(int argc, char **argv);

/* A listening socket, or a bound one for datagrams: non-blocking. Ends the process where that cannot be. */
int peer_listen(const struct options *options);

/* A non-blocking socket that has begun to connect, or -1. */
int peer_connect(const struct address *to);

/* Says that clients may connect. */
void peer_announce(void);

/* Ends the process with a message. */
_Noreturn void peer_fail(const char *what, const char *why);

/* Memory, or the end of the process. */
void *peer_alloc(size_t size);

#endif
