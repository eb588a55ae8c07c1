/* The target of every start: linked statically, it does nothing. */
int main(void) { return 0; }
