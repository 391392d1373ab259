#include "topk_mean.h"
int main() { return 0; }
