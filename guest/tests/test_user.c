#include "user.h"

#include <string.h>

#include "check.h"

#define PASSWD                                     \
    "root:x:0:0:root:/root:/bin/sh\n"              \
    "broken line\n"                                \
    "app:x:1000:100:An: App:/home/app\n"           \
    "web:x:33:34::/var/www:/bin/sh\n"              \
    "homeless:x:7:7:::"
#define GROUP                                      \
    "root:x:0:\n"                                  \
    "wheel:x:10:root,web\n"                        \
    "staff:x:50:webmaster,web\n"                   \
    "web:x:34:\n"                                  \
    "short:x:9"

static struct user user;
static const char *why;

/* Exact copies, so that the sanitizer sees a byte read beyond them. */
static struct file_text copy(const char *text)
{
    size_t size = strlen(text);
    char *bytes = malloc(size ? size : 1);
    memcpy(bytes, text, size);
    return (struct file_text){bytes, size};
}

static bool look(const char *spec, const char *passwd, const char *group)
{
    struct file_text p = copy(passwd), g = copy(group);
    bool found = user_lookup(&user, spec, p, g, &why);
    free((char *)p.at);
    free((char *)g.at);
    return found;
}

static bool is(const char *spec, uint32_t uid, uint32_t gid, const char *home)
{
    return look(spec, PASSWD, GROUP) && user.uid == uid && user.gid == gid &&
           !strcmp(user.home, home);
}

static void names_and_numbers_are_found(void)
{
    CHECK(is("web", 33, 34, "/var/www") && is("33", 33, 34, "/var/www"));
    CHECK(is("root", 0, 0, "/root") && is("homeless", 7, 7, "/"));
}

/* Empty means root, and needs no file at all. */
static void empty_is_root(void)
{
    CHECK(is("", 0, 0, "/root") && user.group_count == 1 && user.groups[0] == 10);
    CHECK(look("", "", "") && user.uid == 0 && !strcmp(user.home, "/"));
    CHECK(is(":web", 0, 34, "/root"));
}

/* Supplementary groups are those that list the user, unless a group is named. */
static void groups_are_collected(void)
{
    CHECK(is("web", 33, 34, "/var/www") && user.group_count == 2);
    CHECK(user.groups[0] == 10 && user.groups[1] == 50);
    CHECK(is("web:staff", 33, 50, "/var/www") && user.group_count == 0);
    CHECK(is("web:", 33, 34, "/var/www") && user.group_count == 2);
    CHECK(is("web:9", 33, 9, "/var/www"));
}

/* A number need not be in the files: it is then a user of group 0, or just a group. */
static void unknown_numbers_are_taken(void)
{
    CHECK(is("4000", 4000, 0, "/") && user.group_count == 0);
    CHECK(is("4000:4001", 4000, 4001, "/"));
}

static void unknown_names_are_refused(void)
{
    static char spec[USER_NAME_MAX + 2];
    CHECK(!look("nobody", PASSWD, GROUP) && strstr(why, "no such user"));
    CHECK(!look("web:nobody", PASSWD, GROUP) && strstr(why, "no such group"));
    CHECK(!look("-1", PASSWD, GROUP) && !look("4294967296", PASSWD, GROUP));
    memset(spec, 'a', USER_NAME_MAX);
    CHECK(!look(spec, PASSWD, GROUP) && strstr(why, "too long"));
}

/* Lines that are no entries are passed over; no bytes whatever make it read elsewhere. */
static void nonsense_does_no_harm(void)
{
    char passwd[64], group[64];
    for (int i = 0; i < 20000; i++) {
        size_t p = draw(sizeof passwd), g = draw(sizeof group);
        for (size_t j = 0; j < p; j++)
            passwd[j] = "a:0,\nx"[draw(6)];
        for (size_t j = 0; j < g; j++)
            group[j] = "a:0,\nx"[draw(6)];
        passwd[p] = group[g] = '\0';
        look("a", passwd, group);
    }
    CHECK(!look("broken line", PASSWD, GROUP));
}

/* No more groups are kept than there is room for. */
static void groups_are_bounded(void)
{
    static char group[GROUPS_MAX * 20];
    for (int i = 0; i < GROUPS_MAX + 10; i++)
        strcat(group, "g:x:1:root\n");
    CHECK(look("root", PASSWD, group) && user.group_count == GROUPS_MAX);
}

int main(void)
{
    RUN(names_and_numbers_are_found);
    RUN(empty_is_root);
    RUN(groups_are_collected);
    RUN(unknown_numbers_are_taken);
    RUN(unknown_names_are_refused);
    RUN(nonsense_does_no_harm);
    RUN(groups_are_bounded);
    return 0;
}
