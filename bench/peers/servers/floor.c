/* The floor: a program that does nothing but send. It reads what anyone says, and at the end of each turn writes all of it
   to everyone, once. No library, no protocol but the little of RFC 6455 that is needed; it answers nothing else. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536, READ = 1 << 20, TURN = 1 << 22 };

struct peer { int open; size_t in_size, in_used, out_size, out_used, out_sent; char *in, *out; };

static struct peer peers[MOST];
static int order[MOST], place[MOST], count, poller;
static char turn[TURN], chunk[READ];
static size_t said;

static const char ACCEPTED[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
static const char FINE[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

static void drop(int fd) {
    struct peer *peer = &peers[fd];
    if (peer->open) {
        place[order[count - 1]] = place[fd];
        order[place[fd]] = order[count - 1];
        count--;
    }
    free(peer->in);
    free(peer->out);
    memset(peer, 0, sizeof *peer);
    close(fd);
}

static void keep(struct peer *peer, const char *data, size_t size) {
    if (peer->out_used + size > peer->out_size) {
        peer->out_size = (peer->out_used + size) * 2;
        peer->out = realloc(peer->out, peer->out_size);
    }
    memcpy(peer->out + peer->out_used, data, size);
    peer->out_used += size;
}

static void want(int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
}

static void tell(int fd, const char *data, size_t size) {
    struct peer *peer = &peers[fd];
    ssize_t sent = 0;
    if (!peer->out_used) {
        sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent == (ssize_t)size) return;
        if (sent < 0) sent = 0;
        want(fd, EPOLLIN | EPOLLOUT);
    }
    keep(peer, data + sent, size - sent);
}

static void flush(int fd) {
    struct peer *peer = &peers[fd];
    ssize_t sent = send(fd, peer->out + peer->out_sent, peer->out_used - peer->out_sent, MSG_NOSIGNAL);
    if (sent > 0) peer->out_sent += sent;
    if (peer->out_sent == peer->out_used) {
        peer->out_sent = peer->out_used = 0;
        want(fd, EPOLLIN);
    }
}

static void everyone(void) {
    for (int index = 0; index < count; index++) tell(order[index], turn, said);
    said = 0;
}

static void hear(const unsigned char *payload, const unsigned char *mask, size_t size) {
    if (said + size + 10 > TURN) everyone();
    turn[said++] = (char)0x81;
    if (size < 126) {
        turn[said++] = (char)size;
    } else {
        turn[said++] = 126;
        turn[said++] = (char)(size >> 8);
        turn[said++] = (char)size;
    }
    for (size_t index = 0; index < size; index++) turn[said++] = (char)(payload[index] ^ mask[index % 4]);
}

static size_t frames(const unsigned char *data, size_t size) {
    size_t start = 0;
    while (size - start >= 6) {
        size_t length = data[start + 1] & 0x7f, head = 2;
        if (length == 126) {
            if (size - start < 8) break;
            length = (size_t)data[start + 2] << 8 | data[start + 3];
            head = 4;
        } else if (length == 127) {
            return size; /* nobody says that much */
        }
        if (size - start < head + 4 + length) break;
        if ((data[start] & 0x0f) == 1) hear(data + start + head + 4, data + start + head, length);
        start += head + 4 + length;
    }
    return start;
}

static void receive(int fd) {
    struct peer *peer = &peers[fd];
    ssize_t got = recv(fd, chunk, READ, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(fd);
        return;
    }
    if (peer->in_used + got > peer->in_size) {
        peer->in_size = peer->in_used + got;
        peer->in = realloc(peer->in, peer->in_size);
    }
    memcpy(peer->in + peer->in_used, chunk, got);
    peer->in_used += got;
    size_t done = 0;
    if (peer->open) {
        done = frames((unsigned char *)peer->in, peer->in_used);
    } else {
        char *end = memmem(peer->in, peer->in_used, "\r\n\r\n", 4);
        if (!end) return;
        done = end + 4 - peer->in;
        if (memmem(peer->in, done, "Upgrade: websocket", 18)) {
            tell(fd, ACCEPTED, sizeof ACCEPTED - 1);
            peer->open = 1;
            place[fd] = count;
            order[count++] = fd;
        } else {
            tell(fd, FINE, sizeof FINE - 1);
            drop(fd);
            return;
        }
    }
    memmove(peer->in, peer->in + done, peer->in_used - done);
    peer->in_used -= done;
    if (!peer->in_used) {
        free(peer->in);
        peer->in = NULL;
        peer->in_size = 0;
    }
}

static void welcome(int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MOST) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    const char *port = getenv("PORT");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port ? port : "8000"))};
    struct epoll_event events[1024], event = {.events = EPOLLIN, .data.fd = listener};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return 1;
    poller = epoll_create1(0);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 1024, -1);
        for (int index = 0; index < ready; index++) {
            int fd = events[index].data.fd;
            if (fd == listener) {
                welcome(listener);
                continue;
            }
            if (events[index].events & EPOLLOUT) flush(fd);
            if (events[index].events & ~(uint32_t)EPOLLOUT) receive(fd);
        }
        if (said) everyone();
    }
}
