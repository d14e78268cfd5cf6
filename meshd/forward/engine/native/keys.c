/* Receive keys by index. Indices are random, so their low bits are as good as a hash. */
#include "engine.h"

struct receive_key *find_key(struct core *core, uint32_t index)
{
    struct receive_key *key = core->keys[index % KEY_BUCKETS];
    while (key && key->index != index)
        key = key->next;
    return key;
}
