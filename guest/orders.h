/* What the node asks for, done and answered. */
#ifndef ORDERS_H
#define ORDERS_H

#include "guest.h"

void orders_obey(struct guest *g, struct order *order);

/* Answers FAILED; the guest's state stays as it is. */
void orders_refuse(struct guest *g, int error, const char *what);

/* The rehearsed program has ended: undoes everything and answers. */
void rehearsal_end(struct guest *g);

#endif
