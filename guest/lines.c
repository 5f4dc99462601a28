#include "lines.h"

#include <string.h>

#include "text.h"

void lines_reset(struct lines *l)
{
    l->tail = l->sent = l->head = 0;
    l->first = 1;
    l->last = 0;
    l->dropped = 0;
}

static void copy_in(struct lines *l, const uint8_t *from, size_t size)
{
    size_t place = l->head % LINES_BYTES;
    size_t before_wrap = LINES_BYTES - place;
    if (size < before_wrap)
        before_wrap = size;
    memcpy(l->bytes + place, from, before_wrap);
    memcpy(l->bytes, from + before_wrap, size - before_wrap);
    l->head += size;
}

bool lines_add(struct lines *l, struct line *line)
{
    static uint8_t frame[2 * (TEXT_MAX + 32)];
    struct encoder e = {frame, 0, sizeof frame};
    if (l->last + 1 - l->first >= LINES_COUNT ||
        l->head - l->tail + line_bound(line->size) > LINES_BYTES)
        return false;
    line->number = l->last + 1;
    encode_line(&e, line);
    copy_in(l, frame, e.used);
    l->last++;
    l->sizes[l->last % LINES_COUNT] = (uint32_t)e.used;
    return true;
}

void lines_drop(struct lines *l)
{
    l->dropped++;
}

void lines_tell_dropped(struct lines *l, uint64_t time_ns)
{
    char text[128];
    struct text t = text_of(text, sizeof text);
    struct line line = {.time_ns = time_ns, .stream = STREAM_STDERR};
    if (!l->dropped)
        return;
    text_add(&t, "[cakework: ");
    text_number(&t, l->dropped);
    text_add(&t, " lines dropped: the log was not being collected]");
    line.text = (const uint8_t *)text;
    line.size = t.used;
    if (lines_add(l, &line))
        l->dropped = 0;
}

static void forget_first(struct lines *l)
{
    l->tail += l->sizes[l->first % LINES_COUNT];
    l->first++;
}

void lines_ack(struct lines *l, uint64_t number)
{
    while (l->first <= l->last && l->first <= number &&
           l->tail + l->sizes[l->first % LINES_COUNT] <= l->sent)
        forget_first(l);
}

void lines_resend(struct lines *l, uint64_t acked)
{
    while (l->first <= l->last && l->first <= acked)
        forget_first(l);
    l->sent = l->tail;
}

size_t lines_unsent(const struct lines *l, const uint8_t **bytes)
{
    size_t place = l->sent % LINES_BYTES;
    size_t before_wrap = LINES_BYTES - place;
    size_t size = l->head - l->sent;
    *bytes = l->bytes + place;
    return size < before_wrap ? size : before_wrap;
}

void lines_sent(struct lines *l, size_t size)
{
    l->sent += size;
}

size_t splitter_room(struct splitter *s, uint8_t **at)
{
    *at = s->bytes + s->used;
    return sizeof s->bytes - s->used;
}

void splitter_filled(struct splitter *s, size_t size)
{
    s->used += size;
}

/* Hands one line to `lines`. False: it is to be offered again later. */
static bool deliver(struct lines *lines, struct line *line, enum when_full when_full)
{
    if (when_full == WHEN_FULL_WAIT && lines->dropped) {
        lines_tell_dropped(lines, line->time_ns);
        if (lines->dropped)
            return false;
    }
    if (!lines->dropped && lines_add(lines, line))
        return true;
    if (when_full == WHEN_FULL_WAIT)
        return false;
    lines_drop(lines);
    return true;
}

static void discard(struct splitter *s, size_t size)
{
    s->used -= size;
    s->seen = 0;
    memmove(s->bytes, s->bytes + size, s->used);
}

bool splitter_flush(struct splitter *s, struct lines *lines, uint64_t time_ns,
                    enum unfinished unfinished, enum when_full when_full)
{
    struct line line = {.time_ns = time_ns, .stream = s->stream};
    size_t start = 0;
    bool delivered = true;
    while (start < s->used) {
        size_t from = start > s->seen ? start : s->seen;
        uint8_t *newline = memchr(s->bytes + from, '\n', s->used - from);
        size_t stop = newline ? (size_t)(newline - s->bytes) : s->used;
        bool full = start == 0 && s->used == sizeof s->bytes;
        s->seen = stop;
        if (!newline && !full && unfinished == UNFINISHED_KEPT)
            break;
        line.text = s->bytes + start;
        line.size = stop - start;
        line.goes_on = !newline && unfinished != UNFINISHED_ENDS;
        delivered = deliver(lines, &line, when_full);
        if (!delivered)
            break;
        start = newline ? stop + 1 : stop;
    }
    if (start)
        discard(s, start);
    return delivered;
}
