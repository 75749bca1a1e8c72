/*
 * A load client that costs next to nothing.
 *
 *     load PORT REQUEST_FILE CONNECTIONS REQUESTS EVENTS STAGGER_US [hold]
 *
 * Sends the bytes of the file on CONNECTIONS connections, REQUESTS times in all, each connection's
 * next request when its reply is complete. EVENTS is how many markers ("@" and sixteen digits) a
 * good reply holds. With "hold" it opens one stream per connection, says "ready" when each has its
 * first event, and keeps them until its standard input ends. Prints what it saw as JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_HEAD 16384
#define MAX_SAMPLES 4000000
#define DIGITS 16

struct connection {
    int fd;
    size_t sent;
    char head[MAX_HEAD + 1];
    size_t head_size;
    int in_body, is_chunked, closes, is_waiting_write;
    size_t body_left;
    char tail[8];
    size_t tail_size;
    int marker_left; /* digits of a marker that a read cut off */
    int n_events;
    int status;
    uint64_t started_us, first_us;
};

static int poller, port, expected, is_holding;
static char *request;
static size_t request_size;
static long wanted, n_started, n_done, n_errors, n_events, n_connects, n_ready;
static uint32_t *latencies, *delays, *firsts, *spans;
static size_t n_latencies, n_delays, n_spans;
static char first_error[512];

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

static void watch(struct connection *c, int op, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, op, c->fd, &event))
        die("epoll_ctl");
}

static void note_error(struct connection *c, const char *what)
{
    n_errors++;
    if (!*first_error)
        snprintf(first_error, sizeof first_error, "%.300s; status %d, %d events", what,
                 c->status, c->n_events);
}

static void open_connection(struct connection *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    n_connects++;
    c->is_waiting_write = 0;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void send_more(struct connection *c)
{
    while (c->sent < request_size) {
        ssize_t sent = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            if (!c->is_waiting_write)
                watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            c->is_waiting_write = 1;
            return;
        }
        if (sent < 0)
            return; /* reading shows what has happened */
        c->sent += (size_t)sent;
    }
    if (c->is_waiting_write)
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->is_waiting_write = 0;
}

static void start(struct connection *c)
{
    if (n_started == wanted)
        return;
    n_started++;
    c->sent = c->head_size = c->tail_size = 0;
    c->in_body = c->is_chunked = c->closes = c->n_events = c->status = c->marker_left = 0;
    c->first_us = 0;
    c->started_us = now_us();
    send_more(c);
}

static void restart(struct connection *c)
{
    close(c->fd);
    open_connection(c);
    start(c);
}

static void finish(struct connection *c)
{
    uint64_t end_us = now_us();
    n_done++;
    if (c->status != 200)
        note_error(c, c->head);
    else if (c->n_events != expected)
        note_error(c, "a reply with another number of events");
    if (n_latencies < MAX_SAMPLES)
        latencies[n_latencies++] = (uint32_t)(end_us - c->started_us);
    if (c->first_us && n_spans < MAX_SAMPLES) {
        firsts[n_spans] = (uint32_t)(c->first_us - c->started_us);
        spans[n_spans++] = (uint32_t)(end_us - c->first_us);
    }
    if (c->closes)
        restart(c);
    else
        start(c);
}

static void note_marker(struct connection *c, const char *digits, size_t size, uint64_t at_us)
{
    if (!c->n_events++) {
        c->first_us = at_us;
        n_ready++;
        if (is_holding && n_ready == wanted) {
            puts("ready");
            fflush(stdout);
        }
    }
    n_events++;
    if (size < DIGITS || n_delays == MAX_SAMPLES)
        return;
    char text[DIGITS + 1];
    memcpy(text, digits, DIGITS);
    text[DIGITS] = 0;
    uint64_t sent_us = strtoull(text, NULL, 10);
    if (sent_us)
        delays[n_delays++] = (uint32_t)(at_us - sent_us);
}

static void take_body(struct connection *c, const char *data, size_t size)
{
    uint64_t at_us = now_us();
    const char *end = data + size, *at = data;
    while ((at = memchr(at, '@', (size_t)(end - at)))) {
        at++;
        note_marker(c, at, (size_t)(end - at), at_us);
    }
    if (!c->is_chunked) {
        c->body_left -= size < c->body_left ? size : c->body_left;
        if (!c->body_left)
            finish(c);
        return;
    }
    size_t kept = size < 7 ? size : 7;
    if (kept < 7 && c->tail_size + kept > 7) {
        size_t surplus = c->tail_size + kept - 7;
        memmove(c->tail, c->tail + surplus, c->tail_size - surplus);
        c->tail_size -= surplus;
    } else if (kept == 7)
        c->tail_size = 0;
    memcpy(c->tail + c->tail_size, end - kept, kept);
    c->tail_size += kept;
    if (c->tail_size == 7 && !memcmp(c->tail, "\r\n0\r\n\r\n", 7))
        finish(c); /* JSON holds no line break of its own, so this is the last chunk */
}

static void take(struct connection *c, const char *data, size_t size)
{
    if (c->in_body) {
        take_body(c, data, size);
        return;
    }
    size_t room = MAX_HEAD - c->head_size, part = size < room ? size : room;
    memcpy(c->head + c->head_size, data, part);
    c->head_size += part;
    c->head[c->head_size] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return;
    size_t rest = size - (part - (c->head_size - (size_t)(end + 4 - c->head)));
    end[2] = 0;
    c->in_body = 1;
    sscanf(c->head, "HTTP/1.%*d %d", &c->status);
    c->is_chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    c->closes = strcasestr(c->head, "\r\nconnection: close") != NULL;
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->body_left = length ? strtoul(length + 17, NULL, 10) : 0;
    if (rest || (!c->is_chunked && !c->body_left))
        take_body(c, data + size - rest, rest);
}

static void read_from(struct connection *c)
{
    static char data[262144];
    ssize_t size = recv(c->fd, data, sizeof data, 0);
    if (size > 0) {
        take(c, data, (size_t)size);
        return;
    }
    if (size < 0 && errno == EAGAIN)
        return;
    n_done++;
    note_error(c, "the connection was closed");
    restart(c);
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_shares(const char *name, uint32_t *samples, size_t n)
{
    qsort(samples, n, sizeof *samples, by_size);
    printf(",\"%s\":{\"n\":%zu,\"p50\":%u,\"p90\":%u,\"p99\":%u,\"max\":%u}", name, n,
           n ? samples[n / 2] : 0, n ? samples[n * 9 / 10] : 0, n ? samples[n * 99 / 100] : 0,
           n ? samples[n - 1] : 0);
}

static void read_request(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die(path);
    fseek(file, 0, SEEK_END);
    request_size = (size_t)ftell(file);
    rewind(file);
    request = malloc(request_size + 1);
    if (!request || fread(request, 1, request_size, file) != request_size)
        die(path);
    fclose(file);
}

static void run(int limit_ms)
{
    struct epoll_event events[512];
    int n = epoll_wait(poller, events, 512, limit_ms);
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (!c) {
            char byte;
            if (read(0, &byte, 1) <= 0)
                exit(0);
            continue;
        }
        if (events[i].events & EPOLLOUT)
            send_more(c);
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            read_from(c);
    }
}

int main(int argc, char **argv)
{
    if (argc < 7)
        return 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    port = atoi(argv[1]);
    read_request(argv[2]);
    int n_connections = atoi(argv[3]);
    wanted = atol(argv[4]);
    expected = atoi(argv[5]);
    uint64_t stagger_us = strtoull(argv[6], NULL, 10);
    is_holding = argc > 7;
    poller = epoll_create1(0);
    latencies = malloc(4 * MAX_SAMPLES), delays = malloc(4 * MAX_SAMPLES);
    firsts = malloc(4 * MAX_SAMPLES), spans = malloc(4 * MAX_SAMPLES);
    struct connection *all = calloc((size_t)n_connections, sizeof *all);
    if (!latencies || !delays || !firsts || !spans || !all)
        die("malloc");
    if (is_holding) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event))
            die("standard input");
    }
    uint64_t started_us = now_us();
    for (int i = 0; i < n_connections; i++) {
        while (now_us() < started_us + stagger_us * (uint64_t)i)
            run(1);
        open_connection(&all[i]);
        start(&all[i]);
    }
    while (n_done < wanted)
        run(-1);
    double seconds = (double)(now_us() - started_us) / 1e6;
    printf("{\"requests\":%ld,\"errors\":%ld,\"events\":%ld,\"connects\":%ld,\"seconds\":%.6f",
           n_done, n_errors, n_events, n_connects, seconds);
    print_shares("latency_us", latencies, n_latencies);
    print_shares("first_us", firsts, n_spans);
    print_shares("span_us", spans, n_spans);
    print_shares("delay_us", delays, n_delays);
    for (char *c = first_error; *c; c++)
        if (*c < ' ' || *c == '"' || *c == '\\')
            *c = ' ';
    printf(",\"first_error\":\"%s\"}\n", first_error);
    return 0;
}
