#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"

static char root[] = "/tmp/cakework-guest-XXXXXX";

/* A file reads as it was written, cut at the buffer's end and ended with a NUL. */
static void files_are_read_and_written(void)
{
    char buffer[4];
    CHECK(file_write("file", "abcdef", 6) && file_read("file", buffer, sizeof buffer) == 3);
    CHECK(!strcmp(buffer, "abc"));
    CHECK(file_write("file", "x", 1) && file_read("file", buffer, sizeof buffer) == 1);
    CHECK(file_read("none", buffer, sizeof buffer) == -1 && errno == ENOENT);
    CHECK(!switch_write("none", "1") && access("none", F_OK));
}

static void folders_are_made(void)
{
    struct stat st;
    CHECK(folder_make("a/b/c", 0755) && !stat("a/b/c", &st) && S_ISDIR(st.st_mode));
    CHECK(folder_make("a/b/c", 0755));
    CHECK(!folder_make("file", 0755) && !folder_make("file/d", 0755));
}

/* All goes, links are not followed. */
static void folders_are_removed(void)
{
    CHECK(folder_make("tree/x/y", 0755) && file_write("tree/x/f", "", 0) &&
          folder_make("kept", 0755) && file_write("kept/f", "", 0));
    CHECK(!symlink("../kept", "tree/link") && !chmod("tree/x/y", 0));
    CHECK(folder_remove("tree") && access("tree", F_OK) && !access("kept/f", F_OK));
    CHECK(!folder_remove("tree") && errno == ENOENT);
}

/* Writes one byte as plain_open has it; returns whether there was a plain file to write to. */
static bool plain_write(int place, const char *path)
{
    int fd = plain_open(place, path, O_WRONLY | O_CREAT);
    bool written = fd >= 0 && write(fd, "x", 1) == 1;
    if (fd >= 0)
        close(fd);
    return written;
}

/* Whatever strangers put in the place of a file, opening it waits for nobody. */
static void only_plain_files_are_opened(void)
{
    static const char *const ODD[] = {"fifo", "socket", "folder", "to-fifo", "to-proc", "to-null"};
    struct sockaddr_un socket_place = {AF_UNIX, "odd/etc/socket"};
    int place, sock = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(folder_make("odd/etc/folder", 0755) && !mkfifo("odd/etc/fifo", 0600));
    CHECK(sock >= 0 && !bind(sock, (struct sockaddr *)&socket_place, sizeof socket_place));
    CHECK(!symlink("/etc/fifo", "odd/etc/to-fifo") && !symlink("/proc/kmsg", "odd/etc/to-proc"));
    CHECK(!symlink("/dev/null", "odd/etc/to-null"));
    /* For root these lead to the real ones; the kernel's files are below no folder of ours. */
    place = open("/", O_PATH | O_DIRECTORY);
    CHECK(plain_open(place, "/proc/self/status", O_RDONLY) < 0 && errno == NOT_PLAIN);
    CHECK(plain_open(place, "/proc/self/comm", O_WRONLY) < 0 && errno == NOT_PLAIN);
    CHECK(plain_open(place, "/dev/null", O_RDONLY) < 0 && errno == NOT_PLAIN);
    close(place);
    place = open("odd/etc", O_PATH | O_DIRECTORY);
    for (size_t i = 0; i < 3; i++) {
        CHECK(plain_open(place, ODD[i], O_RDONLY) < 0 && errno == NOT_PLAIN);
        CHECK(!plain_write(place, ODD[i]) && errno == NOT_PLAIN);
    }
    close(place);
    place = open("odd", O_PATH | O_DIRECTORY);
    CHECK(plain_open(place, "/etc/to-fifo", O_RDONLY) < 0 && errno == NOT_PLAIN);
    for (size_t i = 4; i < sizeof ODD / sizeof *ODD; i++) {
        char path[64] = "/etc/";
        CHECK(plain_open(place, strcat(path, ODD[i]), O_RDONLY) < 0 && errno == ENOENT);
    }
    close(place);
    close(sock);
}

/* Links are followed, and lead out of the root as little as names do. */
static void links_stay_below_the_root(void)
{
    char buffer[8];
    int place;
    CHECK(folder_make("below/etc", 0755) && folder_make("outside", 0755));
    CHECK(file_write("secret", "secret", 6) && file_write("below/real", "abc", 3));
    CHECK(!symlink("/real", "below/etc/inside") && !symlink("../../secret", "below/etc/out"));
    CHECK(!symlink("/real-not-there", "below/etc/made") && !symlink("/etc", "below/data"));
    CHECK(!symlink("../outside", "below/away") && !symlink("round", "below/round"));
    place = open("below", O_PATH | O_DIRECTORY);
    CHECK(plain_write(place, "/etc/inside") && file_read("below/real", buffer, 8) == 3);
    CHECK(!strcmp(buffer, "xbc"));
    CHECK(plain_open(place, "/etc/out", O_RDONLY) < 0 && errno == ENOENT);
    CHECK(plain_open(place, "../secret", O_RDONLY) < 0 && errno == ENOENT);
    CHECK(plain_write(place, "/etc/made") && !access("below/real-not-there", F_OK));
    CHECK(close(folder_open(place, "data")) == 0 && close(folder_open(place, "new")) == 0);
    CHECK(!access("below/new", F_OK) && folder_open(place, "real") < 0 && errno == ENOTDIR);
    CHECK(folder_open(place, "away") < 0 && errno == ENOENT);
    CHECK(folder_open(place, "round") < 0 && errno == ELOOP);
    close(place);
}

int main(void)
{
    alarm(60);
    CHECK(mkdtemp(root) && !chdir(root));
    RUN(files_are_read_and_written);
    RUN(folders_are_made);
    RUN(folders_are_removed);
    RUN(only_plain_files_are_opened);
    RUN(links_stay_below_the_root);
    CHECK(folder_remove(root));
    return 0;
}
