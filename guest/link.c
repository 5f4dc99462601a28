#include "link.h"

#include <string.h>
#include <unistd.h>

void link_init(struct link *link, int fd)
{
    link->fd = fd;
    link->in.frame = link->frame;
    link->chunk_at = link->chunk_end = link->chunk;
    deframer_reset(&link->in);
    link->greeted = link->hung_up = link->in_frame = link->blocked = link->starved = false;
    link->out_sent = link->out_used = 0;
}

bool link_is_up(const struct link *link)
{
    return link->greeted && !link->hung_up;
}

static void forget_answers(struct link *link)
{
    link->in_frame = false;
    link->out_sent = 0;
    link->out[0] = MARK;
    link->out_used = 1;
}

void link_greet(struct link *link)
{
    link->greeted = true;
    forget_answers(link);
}

/* Answers that nobody is there to read must not keep the next HELLO from being read. */
static bool has_room(struct link *link)
{
    if (LINK_OUT - link->out_used < ANSWER_MAX && !link_is_up(link))
        forget_answers(link);
    link->starved = LINK_OUT - link->out_used < ANSWER_MAX;
    return !link->starved;
}

static bool fill(struct link *link)
{
    ssize_t size;
    if (link->chunk_at < link->chunk_end)
        return true;
    size = read(link->fd, link->chunk, sizeof link->chunk);
    link->chunk_at = link->chunk;
    link->chunk_end = link->chunk + (size > 0 ? size : 0);
    return size > 0;
}

enum received link_receive(struct link *link, struct order *order, struct slots *slots)
{
    while (has_room(link) && fill(link)) {
        enum deframed deframed = deframer_feed(&link->in, &link->chunk_at, link->chunk_end);
        bool parsed;
        if (deframed == DEFRAMED_MORE)
            continue;
        parsed = deframed == DEFRAMED_FRAME &&
                 order_parse(order, link->in.frame, link->in.used, slots);
        deframer_reset(&link->in);
        return parsed ? RECEIVED_ORDER : RECEIVED_BROKEN;
    }
    return RECEIVED_NOTHING;
}

void link_keep_frame(struct link *link)
{
    link->in.frame = link->spare;
}

struct encoder link_answer(struct link *link)
{
    return (struct encoder){link->out + link->out_used, 0, LINK_OUT - link->out_used};
}

void link_answered(struct link *link, const struct encoder *e)
{
    if (encoder_fits(e))
        link->out_used += e->used;
}

/* Returns how many bytes the port took; fewer than `size`: it is blocked. */
static size_t push(struct link *link, const uint8_t *bytes, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = write(link->fd, bytes + done, size - done);
        if (n <= 0) {
            link->blocked = true;
            break;
        }
        done += (size_t)n;
    }
    if (done)
        link->in_frame = bytes[done - 1] != MARK;
    return done;
}

static void push_answers(struct link *link)
{
    link->out_sent += push(link, link->out + link->out_sent, link->out_used - link->out_sent);
    if (link->out_sent == link->out_used)
        link->out_sent = link->out_used = 0;
}

/* Pushes lines; when answers wait, only to the end of the line under way. */
static bool push_lines(struct link *link, struct lines *lines, bool to_mark)
{
    const uint8_t *bytes;
    size_t size = lines_unsent(lines, &bytes);
    const uint8_t *mark = to_mark ? memchr(bytes, MARK, size) : NULL;
    if (mark)
        size = (size_t)(mark - bytes) + 1;
    lines_sent(lines, push(link, bytes, size));
    return size > 0;
}

void link_flush(struct link *link, struct lines *lines)
{
    bool more = link_is_up(link);
    link->blocked = false;
    while (more && !link->blocked) {
        bool answers = link->out_used > 0;
        if (answers && (link->out_sent || !link->in_frame))
            push_answers(link);
        else
            more = push_lines(link, lines, answers);
    }
}
