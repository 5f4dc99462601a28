/* `seeds orders|user FOLDER`: writes the first inputs of a fuzzer. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int save(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[4096];
    FILE *file;
    snprintf(path, sizeof path, "%s/seed-%s", folder, name);
    file = fopen(path, "w");
    if (!file || fwrite(bytes, 1, size, file) != size)
        return 1;
    return fclose(file);
}

#define SAVE(name, bytes) save(folder, name, bytes, sizeof bytes - 1)

static int orders(const char *folder)
{
    return SAVE("hello", "\xff\x01\x01\0tokentok\0\0\0\0\0\0\0\0\xff") ||
           SAVE("rehearse", "\x02\x02\0\0\0\x02\0\0\0sh\0\0\0\0\xff") ||
           SAVE("run", "\x03" "12345678" "\x20\0\0\0" "0123456789abcdef0123456789abcdef"
                       "\x01\0\0\0h\x01\0\0\0\x07\0\0\0" "1.1.1.1\x01\0\0\0v\x03\0\0\0" "a.b"
                       "\x01\0\0\0/\0\0\0\0"
                       "\x01\0\0\0\x02\0\0\0sh\x01\0\0\0\x03\0\0\0K=V\x01\x01\x50\x1f\xff") ||
           SAVE("resume", "\x08\xe8\x03\0\0\x01\0\0\0\x02\0\0\0sh\0\0\0\0\0\0\xff\x09\xff\x0a" "12345678"
                          "\x20\0\0\0" "0123456789abcdef0123456789abcdef\x01\0\0\0h\x01\0\0\0"
                          "\x07\0\0\0" "1.1.1.1\x01\0\0\0v\x03\0\0\0" "a.b\xff") ||
           SAVE("numbers", "\x04\x01\0\0\0\0\0\0\0\xff\x05\x0f\0\0\0\xff\x06\xfe\x00\0\0\0\xff"
                           "\x07" "12345678\xff\x0b" "12345678\xff");
}

static int user(const char *folder)
{
    return SAVE("name", "app:web\0root:x:0:0::/root:/bin/sh\napp:x:1:2:::\n\0web:x:3:app,b\n") ||
           SAVE("number", "1000:7\0app:x:1000:1000::/home/app:/bin/sh\0g:x:7:\n") ||
           SAVE("empty", "\0\0");
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    if (!strcmp(argv[1], "orders"))
        return orders(argv[2]);
    return strcmp(argv[1], "user") ? 2 : user(argv[2]);
}
