#include "text.h"

#include <string.h>

#include "check.h"

static char buffer[128];
static struct text t;

static void begin(size_t size)
{
    t = text_of(buffer, size);
}

static void numbers_are_written(void)
{
    begin(sizeof buffer);
    text_number(&t, 0);
    text_add(&t, " ");
    text_number(&t, UINT64_MAX);
    CHECK(!strcmp(buffer, "0 18446744073709551615") && !t.cut);
}

/* A text that is too long is cut, ended, and says so. */
static void texts_are_bounded(void)
{
    begin(4);
    text_add(&t, "abc");
    CHECK(!t.cut);
    text_add(&t, "d");
    CHECK(t.cut && !strcmp(buffer, "abc"));
}

static void numbers_are_read(void)
{
    uint32_t number;
    CHECK(parse_number("0", &number) && number == 0);
    CHECK(parse_number("4294967295", &number) && number == UINT32_MAX);
    CHECK(!parse_number("4294967296", &number) && !parse_number("", &number));
    CHECK(!parse_number("-1", &number) && !parse_number("1x", &number));
    CHECK(!parse_number("00000000001", &number));
}

static void hosts_name_the_machine(void)
{
    begin(sizeof buffer);
    hosts_text(&t, "10.0.0.2", "vm");
    CHECK(!strncmp(buffer, "127.0.0.1\tlocalhost\n", 20));
    CHECK(strstr(buffer, "\n10.0.0.2\tvm\n"));
}

static void resolvers_are_listed(void)
{
    char *servers[] = {"1.1.1.1", "8.8.8.8", NULL};
    begin(sizeof buffer);
    resolv_text(&t, servers);
    CHECK(!strcmp(buffer, "nameserver 1.1.1.1\nnameserver 8.8.8.8\n"));
}

static bool candidate(const char *path, const char *name, size_t index, const char *expected)
{
    begin(sizeof buffer);
    return path_candidate(&t, path, name, index) && !strcmp(buffer, expected);
}

/* A bare name is looked for in each folder in turn, an empty one being here; any other is
 * taken as it is. */
static void programs_are_looked_up(void)
{
    CHECK(candidate("/a:/b/c", "ls", 0, "/a/ls") && candidate("/a:/b/c", "ls", 1, "/b/c/ls"));
    CHECK(!candidate("/a:/b/c", "ls", 2, ""));
    CHECK(candidate(":/a", "ls", 0, "./ls") && candidate("", "ls", 0, "./ls"));
    CHECK(candidate("/a", "./ls", 0, "./ls") && !candidate("/a", "./ls", 1, ""));
}

static void variables_are_found(void)
{
    char *env[] = {"PATHS=no", "PATH=yes", "PATH=later", NULL};
    CHECK(!strcmp(env_get(env, "PATH"), "yes") && !env_get(env, "PAT"));
}

int main(void)
{
    RUN(numbers_are_written);
    RUN(texts_are_bounded);
    RUN(numbers_are_read);
    RUN(hosts_name_the_machine);
    RUN(resolvers_are_listed);
    RUN(programs_are_looked_up);
    RUN(variables_are_found);
    return 0;
}
