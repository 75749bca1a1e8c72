/*
 * An upstream that costs next to nothing: chat-completions streams, made before they are asked for.
 *
 *     upstream PORT
 *
 * What a request gets is said by its model: "whole", "burst-N", "tools-N", "think-N" (N events as
 * fast as they go), "paced-N-MS" (one every MS milliseconds) or "silent" (one, then nothing).
 * Every event holds "@" and sixteen digits, the time in microseconds where it matters, so that the
 * load client can count events and see how late they are. GET /stats tells how connections were used.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 65536
#define MAX_HEAD 16384
#define KEPT_BODY 255
#define MAX_REPLIES 64
#define WHEEL 8192 /* milliseconds */
#define EVENT                                                                                      \
    "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000," \
    "\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{%s},\"finish_reason\":%s}]%s}\n\n"
#define TEXT "\"content\":\"@0000000000000000 word \""
#define USAGE ",\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":50,\"total_tokens\":150}"
#define REPLY_HEAD                                                                                 \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

struct reply {
    char model[64];
    char *bytes;
    size_t size;
};

struct connection {
    char head[MAX_HEAD + 1];
    size_t head_size;
    char body[KEPT_BODY + 1]; /* its beginning: the model is there */
    size_t body_size;
    size_t body_left;
    int in_body;
    const char *out;
    size_t out_left;
    int events_left; /* of a paced stream */
    int interval_ms;
    uint64_t due_us;
    int next_in_slot;
};

static struct connection *connections[MAX_FDS];
static struct reply replies[MAX_REPLIES];
static int n_replies, poller;
static int wheel[WHEEL];
static uint64_t wheel_ms;
static long n_accepted, n_requests, n_open, n_stalls, n_paced;

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int append_chunk(char *at, const char *data)
{
    return sprintf(at, "%zx\r\n%s\r\n", strlen(data), data);
}

/* Write one event as a chunk of its own, as servers do. */
static int append_event(char *at, const char *delta, const char *finish, const char *more)
{
    char event[2048];
    snprintf(event, sizeof event, EVENT, delta, finish, more);
    return append_chunk(at, event);
}

static int append_end(char *at, const char *finish)
{
    char *start = at;
    at += append_event(at, "", finish, "");
    at += append_chunk(at, "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\","
                           "\"model\":\"bench\",\"choices\":[]" USAGE "}\n\n");
    at += append_chunk(at, "data: [DONE]\n\n");
    at += sprintf(at, "0\r\n\r\n");
    return (int)(at - start);
}

static int append_tool(char *at, const char *head, const char *arguments)
{
    char delta[512];
    snprintf(delta, sizeof delta,
             "\"tool_calls\":[{\"index\":0,%s\"function\":{%s\"arguments\":\"%s\"}}]",
             *head ? "\"id\":\"call_bench1\",\"type\":\"function\"," : "", head, arguments);
    return append_event(at, delta, "null", "");
}

static const struct reply *find_reply(const char *model)
{
    for (int i = 0; i < n_replies; i++)
        if (!strcmp(replies[i].model, model))
            return &replies[i];
    int n = 4, is_tools = 0, is_think = 0;
    if (sscanf(model, "tools-%d", &n) == 1)
        is_tools = 1;
    else if (sscanf(model, "think-%d", &n) == 1)
        is_think = 1;
    else if (sscanf(model, "burst-%d", &n) != 1 && strcmp(model, "whole"))
        return NULL;
    if (n_replies == MAX_REPLIES || n < 1 || n > 100000)
        return NULL;
    char *bytes = malloc(4096 + (size_t)n * 512), *at = bytes;
    if (!bytes)
        die("malloc");
    at += sprintf(at, REPLY_HEAD);
    if (is_tools)
        at += append_tool(at, "\"name\":\"write_file\",",
                          "{\\\"path\\\":\\\"src/main.py\\\",\\\"content\\\":\\\"");
    for (int i = 0; i < n; i++)
        if (is_tools)
            at += append_tool(at, "", "@0000000000000000 word ");
        else
            at += append_event(
                at, is_think ? "\"reasoning_content\":\"@0000000000000000 word \"" : TEXT, "null", "");
    if (is_tools)
        at += append_tool(at, "", "\\\"}");
    if (is_think)
        at += append_event(at, "\"content\":\"Done.\"", "null", "");
    at += append_end(at, is_tools ? "\"tool_calls\"" : "\"stop\"");
    struct reply *made = &replies[n_replies++];
    snprintf(made->model, sizeof made->model, "%s", model);
    made->bytes = bytes;
    made->size = (size_t)(at - bytes);
    return made;
}

static void drop(int fd)
{
    if (connections[fd]->interval_ms)
        n_paced--;
    free(connections[fd]); /* a slot of the wheel may still name it: looked at there */
    connections[fd] = NULL;
    n_open--;
    close(fd);
}

static void watch(int fd, int op, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, op, fd, &event))
        die("epoll_ctl");
}

/* Return whether the connection is still there. */
static int flush(int fd, struct connection *c)
{
    while (c->out_left) {
        ssize_t sent = send(fd, c->out, c->out_left, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN) {
                watch(fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
                return 1;
            }
            drop(fd);
            return 0;
        }
        c->out += sent;
        c->out_left -= (size_t)sent;
        if (!c->out_left)
            watch(fd, EPOLL_CTL_MOD, EPOLLIN);
    }
    return 1;
}

/* Send what is made for one moment; a receiver that does not take it is not waited for. */
static int send_now(int fd, const char *bytes, size_t size)
{
    ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
    if (sent == (ssize_t)size)
        return 1;
    n_stalls++;
    drop(fd);
    return 0;
}

static int send_paced_event(int fd, int with_head)
{
    char bytes[4096], delta[128];
    char *at = bytes;
    if (with_head)
        at += sprintf(at, REPLY_HEAD);
    snprintf(delta, sizeof delta, "\"content\":\"@%016llu word \"", (unsigned long long)now_us());
    at += append_event(at, delta, "null", "");
    return send_now(fd, bytes, (size_t)(at - bytes));
}

static void schedule(int fd, struct connection *c)
{
    uint64_t due_ms = c->due_us / 1000;
    if (due_ms <= wheel_ms)
        due_ms = wheel_ms + 1;
    int *slot = &wheel[due_ms % WHEEL];
    c->next_in_slot = *slot;
    *slot = fd;
}

static void turn_wheel(void)
{
    uint64_t now_ms = now_us() / 1000;
    while (wheel_ms < now_ms) {
        wheel_ms++;
        int fd = wheel[wheel_ms % WHEEL];
        wheel[wheel_ms % WHEEL] = -1;
        while (fd >= 0) {
            struct connection *c = connections[fd];
            if (!c || !c->interval_ms)
                break; /* left in mid-stream, and with it those behind it: a run that failed */
            int next = c->next_in_slot, this = fd;
            fd = next;
            if (c->events_left-- > 0) {
                if (send_paced_event(this, 0)) {
                    c->due_us += (uint64_t)c->interval_ms * 1000;
                    schedule(this, c);
                }
            } else {
                char bytes[2048];
                n_paced--;
                c->interval_ms = 0;
                send_now(this, bytes, (size_t)append_end(bytes, "\"stop\""));
            }
        }
    }
}

static int answer_plain(int fd, const char *status, const char *body)
{
    char bytes[1024];
    int size = snprintf(bytes, sizeof bytes,
                        "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        status, strlen(body), body);
    return send_now(fd, bytes, (size_t)size);
}

static int answer_stats(int fd)
{
    char body[256];
    snprintf(body, sizeof body,
             "{\"accepted\":%ld,\"requests\":%ld,\"open\":%ld,\"stalls\":%ld}", n_accepted,
             n_requests, n_open, n_stalls);
    return answer_plain(fd, "200 OK", body);
}

static int answer_model(int fd, struct connection *c)
{
    int n, ms;
    char model[64] = "";
    char *found = strstr(c->body, "\"model\":\"");
    if (found)
        sscanf(found + 9, "%63[^\"]", model);
    n_requests++;
    if (sscanf(model, "paced-%d-%d", &n, &ms) == 2 && ms > 0 && ms < WHEEL) {
        if (!send_paced_event(fd, 1))
            return 0;
        c->events_left = n - 1;
        c->interval_ms = ms;
        if (!n_paced++)
            wheel_ms = now_us() / 1000;
        c->due_us = now_us() + (uint64_t)ms * 1000;
        schedule(fd, c);
        return 1;
    }
    if (!strcmp(model, "silent"))
        return send_paced_event(fd, 1);
    const struct reply *reply = find_reply(model);
    if (!reply)
        return answer_plain(fd, "400 Bad Request", "{\"error\":{\"message\":\"no such model\"}}");
    c->out = reply->bytes;
    c->out_left = reply->size;
    return flush(fd, c);
}

static int take_request(int fd, struct connection *c)
{
    c->body[c->body_size] = 0;
    int is_stats = !strncmp(c->head, "GET /stats", 10);
    int is_get = !strncmp(c->head, "GET ", 4);
    c->head_size = c->body_size = 0;
    c->in_body = 0;
    if (is_stats)
        return answer_stats(fd);
    if (is_get)
        return answer_plain(fd, "200 OK", "{\"object\":\"list\",\"data\":[]}");
    return answer_model(fd, c);
}

static int take(int fd, struct connection *c, char *data, size_t size)
{
    while (size) {
        if (!c->in_body) {
            size_t room = MAX_HEAD - c->head_size, part = size < room ? size : room;
            memcpy(c->head + c->head_size, data, part);
            size_t seen = c->head_size > 3 ? c->head_size - 3 : 0;
            c->head_size += part;
            c->head[c->head_size] = 0;
            char *end = strstr(c->head + seen, "\r\n\r\n");
            if (!end) {
                if (c->head_size == MAX_HEAD) {
                    drop(fd);
                    return 0;
                }
                return 1;
            }
            size_t rest = c->head_size - (size_t)(end + 4 - c->head);
            data += part - rest;
            size -= part - rest;
            end[2] = 0;
            char *length = strcasestr(c->head, "\r\ncontent-length:");
            c->body_left = length ? strtoul(length + 17, NULL, 10) : 0;
            c->in_body = 1;
        }
        size_t part = size < c->body_left ? size : c->body_left;
        size_t room = KEPT_BODY - c->body_size, kept = part < room ? part : room;
        memcpy(c->body + c->body_size, data, kept);
        c->body_size += kept;
        c->body_left -= part;
        data += part;
        size -= part;
        if (!c->body_left && !take_request(fd, c))
            return 0;
    }
    return 1;
}

static void read_from(int fd)
{
    static char data[262144];
    ssize_t size = recv(fd, data, sizeof data, 0);
    if (size > 0)
        take(fd, connections[fd], data, (size_t)size);
    else if (size == 0 || errno != EAGAIN)
        drop(fd);
}

static void accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0)
            return;
        if (fd >= MAX_FDS) {
            close(fd);
            continue;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connections[fd] = calloc(1, sizeof *connections[fd]);
        if (!connections[fd])
            die("calloc");
        n_accepted++;
        n_open++;
        watch(fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    struct rlimit files = {MAX_FDS, MAX_FDS};
    if (setrlimit(RLIMIT_NOFILE, &files)) {
        getrlimit(RLIMIT_NOFILE, &files);
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < WHEEL; i++)
        wheel[i] = -1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        die("listen");
    poller = epoll_create1(0);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        struct epoll_event events[512];
        int n = epoll_wait(poller, events, 512, n_paced ? 1 : -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all(listener);
            else if (connections[fd] && (events[i].events & EPOLLOUT) && !flush(fd, connections[fd]))
                continue;
            else if (connections[fd] && (events[i].events & ~(uint32_t)EPOLLOUT))
                read_from(fd);
        }
        if (n_paced)
            turn_wheel();
    }
}
