#include "peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Connections that may wait for accept: a load of thousands opens them all at once. */
#define BACKLOG 4096

/* What the kernel is asked to keep of datagrams that arrive; it grants no more than net.core.rmem_max. */
#define DATAGRAM_RECEIVE_BUFFER (4 << 20)

static const char *name = "peer";

void peer_fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s: %s\n", name, what, why);
    exit(1);
}

static _Noreturn void usage(void) {
    fprintf(stderr,
            "usage: %s echo|broadcast|udp|relay --listen IP:PORT|unix:PATH [--message BYTES] [--to IP:PORT|unix:PATH]\n",
            name);
    exit(2);
}

static struct address parse_address(const char *text) {
    struct address address = {0};
    if (strncmp(text, "unix:", 5) == 0) {
        struct sockaddr_un *sun = (struct sockaddr_un *)&address.storage;
        if (strlen(text + 5) == 0 || strlen(text + 5) >= sizeof sun->sun_path) peer_fail(text, "not a path of a socket");
        sun->sun_family = AF_UNIX;
        strcpy(sun->sun_path, text + 5);
        address.length = sizeof *sun;
        return address;
    }
    struct sockaddr_in *sin = (struct sockaddr_in *)&address.storage;
    char host[INET_ADDRSTRLEN];
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= sizeof host) peer_fail(text, "write IP:PORT or unix:PATH");
    memcpy(host, text, colon - text);
    host[colon - text] = '\0';
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (*end != '\0' || end == colon + 1 || port > 65535 || inet_pton(AF_INET, host, &sin->sin_addr) != 1)
        peer_fail(text, "write IP:PORT or unix:PATH");
    sin->sin_family = AF_INET;
    sin->sin_port = htons(port);
    address.length = sizeof *sin;
    return address;
}

static enum scenario parse_scenario(const char *text) {
    static const char *const names[] = {"echo", "broadcast", "udp", "relay"};
    for (int each = SCENARIO_ECHO; each <= SCENARIO_RELAY; each++)
        if (strcmp(text, names[each]) == 0) return each;
    usage();
}

struct options peer_options(int argc, char **argv) {
    name = argv[0];
    if (argc < 2) usage();
    struct options options = {.scenario = parse_scenario(argv[1])};
    for (int at = 2; at < argc; at += 2) {
        if (at + 1 == argc) usage();
        if (strcmp(argv[at], "--listen") == 0)
            options.listen = parse_address(argv[at + 1]);
        else if (strcmp(argv[at], "--to") == 0)
            options.to = parse_address(argv[at + 1]);
        else if (strcmp(argv[at], "--message") == 0)
            options.message = strtoul(argv[at + 1], NULL, 10);
        else
            usage();
    }
    int is_unix = options.listen.storage.ss_family == AF_UNIX;
    if (options.listen.length == 0 || (options.scenario == SCENARIO_BROADCAST && options.message == 0) ||
        (options.scenario == SCENARIO_RELAY && options.to.length == 0) || (options.scenario == SCENARIO_UDP && is_unix))
        usage();
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit); /* a refusal only means fewer connections */
    }
    signal(SIGPIPE, SIG_IGN);
    return options;
}

static void set(int fd, int level, int option, int value) {
    if (setsockopt(fd, level, option, &value, sizeof value) == -1) peer_fail("cannot set an option", strerror(errno));
}

int peer_listen(const struct options *options) {
    const struct sockaddr *address = (const struct sockaddr *)&options->listen.storage;
    int type = options->scenario == SCENARIO_UDP ? SOCK_DGRAM : SOCK_STREAM;
    int fd = socket(address->sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1) peer_fail("cannot make a socket", strerror(errno));
    if (options->scenario == SCENARIO_UDP) {
        set(fd, SOL_SOCKET, SO_RCVBUF, DATAGRAM_RECEIVE_BUFFER);
    } else if (address->sa_family == AF_UNIX) {
        /* A socket that an earlier peer left makes way, and nothing else. */
        const char *path = ((const struct sockaddr_un *)address)->sun_path;
        struct stat there;
        if (lstat(path, &there) == 0 && S_ISSOCK(there.st_mode)) unlink(path);
    } else {
        set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
        /* Accepted sockets inherit it: no system call for each of them. */
        set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    }
    if (bind(fd, address, options->listen.length) == -1) peer_fail("cannot bind the address", strerror(errno));
    if (type == SOCK_STREAM && listen(fd, BACKLOG) == -1) peer_fail("cannot listen", strerror(errno));
    return fd;
}

int peer_connect(const struct address *to) {
    int fd = socket(to->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1) return -1;
    if (to->storage.ss_family == AF_INET) set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (connect(fd, (const struct sockaddr *)&to->storage, to->length) == -1 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

void peer_announce(void) {
    puts("listening");
    fflush(stdout);
}

void *peer_alloc(size_t size) {
    void *memory = calloc(1, size);
    if (memory == NULL) peer_fail("no memory", strerror(errno));
    return memory;
}
