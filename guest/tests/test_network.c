#include "network.h"

#include <string.h>

#include "check.h"

static void addresses_are_parsed(void)
{
    char address[16];
    unsigned prefix;
    CHECK(network_parse("255.255.255.255/32", address, &prefix) && prefix == 32);
    CHECK(!strcmp(address, "255.255.255.255"));
    CHECK(network_parse("10.0.0.2/0", address, &prefix) && prefix == 0);
}

static void other_texts_are_refused(void)
{
    static const char *const others[] = {"", "10.0.0.2", "10.0.0.2/", "10.0.0.2/33", "/24",
                                         "10.0.0.256/8", "10.0.0.2/8x", "255.255.255.2555/8"};
    char address[16];
    unsigned prefix;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CHECK(!network_parse(others[i], address, &prefix));
}

int main(void)
{
    RUN(addresses_are_parsed);
    RUN(other_texts_are_refused);
    return 0;
}
