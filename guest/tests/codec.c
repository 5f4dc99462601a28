/* `codec decode`: frames of the node's on stdin, each told in a line of text on stdout.
 * `codec encode`: such lines about frames of the guest's on stdin, their bytes on stdout.
 * Texts are in hexadecimal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lines.h"
#include "protocol.h"

static void tell_text(const void *bytes, size_t size)
{
    const unsigned char *at = bytes;
    putchar(' ');
    putchar('x');
    for (size_t i = 0; i < size; i++)
        printf("%02x", at[i]);
}

static void tell_list(char **list)
{
    size_t count = 0;
    while (list[count])
        count++;
    printf(" %zu", count);
    for (; *list; list++)
        tell_text(*list, strlen(*list));
}

static void tell_str(const char *str)
{
    tell_text(str, strlen(str));
}

static void tell_identity(const struct identity *identity)
{
    printf(" %llu", (unsigned long long)identity->clock_ns);
    tell_text(identity->seed, SEED_SIZE);
    tell_str(identity->hostname);
    tell_list(identity->dns);
    tell_str(identity->vm_id);
    tell_str(identity->domain);
}

static void tell_run(const struct run *run)
{
    printf("run");
    tell_identity(&run->identity);
    tell_str(run->cwd);
    tell_str(run->user);
    tell_list(run->argv);
    tell_list(run->env);
    printf(" %d %d %d", run->volume, run->watch, run->port);
}

static void tell_hook(const struct hook *hook)
{
    printf("hook %u", hook->timeout_ms);
    tell_list(hook->argv);
    printf(" %d", hook->port);
    tell_str(hook->path);
}

static void tell(struct order *order)
{
    static const char *const numbers[] = {
        [ORDER_ACK] = "ack", [ORDER_SIGNAL] = "signal", [ORDER_POWEROFF] = "poweroff",
        [ORDER_PING] = "ping", [ORDER_MARK] = "mark"};
    if (order->type == ORDER_HELLO)
        printf("hello %u %llu %llu", order->hello.version,
               (unsigned long long)order->hello.token, (unsigned long long)order->hello.acked);
    else if (order->type == ORDER_REHEARSE) {
        printf("rehearse");
        tell_list(order->run.argv);
    } else if (order->type == ORDER_RUN)
        tell_run(&order->run);
    else if (order->type == ORDER_HOOK)
        tell_hook(&order->hook);
    else if (order->type == ORDER_FREEZE)
        printf("freeze");
    else if (order->type == ORDER_RESUME) {
        printf("resume");
        tell_identity(&order->identity);
    } else
        printf("%s %llu", numbers[order->type], (unsigned long long)order->number);
    putchar('\n');
}

static void decode(void)
{
    static uint8_t frame[FRAME_MAX], chunk[4096];
    static struct slots slots;
    struct deframer d = {.frame = frame};
    size_t size;
    while ((size = fread(chunk, 1, sizeof chunk, stdin))) {
        const uint8_t *at = chunk;
        enum deframed deframed;
        while ((deframed = deframer_feed(&d, &at, chunk + size)) != DEFRAMED_MORE) {
            struct order order;
            if (deframed == DEFRAMED_FRAME && order_parse(&order, frame, d.used, &slots))
                tell(&order);
            else
                puts("broken");
            deframer_reset(&d);
        }
    }
}

static uint64_t next_number(void)
{
    char *word = strtok(NULL, " \n");
    return word ? strtoull(word, NULL, 10) : 0;
}

static size_t next_text(uint8_t *bytes)
{
    char *word = strtok(NULL, " \n");
    size_t size = strlen(word) / 2;
    for (size_t i = 0; i < size; i++) {
        char pair[3] = {word[1 + 2 * i], word[2 + 2 * i], '\0'};
        bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    bytes[size] = '\0';
    return size;
}

static void encode_word(struct encoder *e, const char *word)
{
    static uint8_t text[TEXT_MAX + 1];
    if (!strcmp(word, "hello")) {
        uint64_t token = next_number();
        enum guest_state state = (enum guest_state)next_number();
        uint64_t last = next_number();
        next_text(text);
        encode_hello(e, token, state, last, (char *)text);
    } else if (!strcmp(word, "started"))
        encode_started(e, (uint32_t)next_number());
    else if (!strcmp(word, "failed")) {
        uint32_t error = (uint32_t)next_number();
        next_text(text);
        encode_failed(e, error, (char *)text);
    } else if (!strcmp(word, "line")) {
        struct line line = {.text = text};
        line.number = next_number();
        line.time_ns = next_number();
        line.stream = (uint8_t)next_number();
        line.goes_on = next_number();
        line.size = next_text(text);
        encode_line(e, &line);
    } else if (!strcmp(word, "exited")) {
        struct ending ending;
        ending.by_signal = next_number();
        ending.value = (uint32_t)next_number();
        ending.out_of_memory = next_number();
        encode_exited(e, &ending, next_number());
    } else if (!strcmp(word, "rehearsed"))
        encode_rehearsed(e);
    else if (!strcmp(word, "pong"))
        encode_pong(e, next_number());
    else if (!strcmp(word, "ready"))
        encode_ready(e);
    else if (!strcmp(word, "hooked")) {
        enum hook_end end = (enum hook_end)next_number();
        encode_hooked(e, end, (uint32_t)next_number());
    } else if (!strcmp(word, "frozen"))
        encode_frozen(e, next_number());
    else if (!strcmp(word, "resumed"))
        encode_resumed(e);
    else if (!strcmp(word, "marked")) {
        uint64_t token = next_number();
        encode_marked(e, token, next_number());
    }
}

static void encode(void)
{
    static char told[2 * TEXT_MAX + 256];
    static uint8_t bytes[2 * TEXT_MAX + 256];
    while (fgets(told, sizeof told, stdin)) {
        struct encoder e = {bytes, 0, sizeof bytes};
        encode_word(&e, strtok(told, " \n"));
        if (!encoder_fits(&e))
            exit(1);
        fwrite(bytes, 1, e.used, stdout);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "decode"))
        decode();
    else if (argc == 2 && !strcmp(argv[1], "encode"))
        encode();
    else
        return 2;
    return 0;
}
