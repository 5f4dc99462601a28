#include "files.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
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

int main(void)
{
    CHECK(mkdtemp(root) && !chdir(root));
    RUN(files_are_read_and_written);
    RUN(folders_are_made);
    RUN(folders_are_removed);
    CHECK(folder_remove(root));
    return 0;
}
