// What is said to the person: one line that names the file, what was expected and what came. Any
// other exception does not know its file.
#pragma once

#include <stdexcept>

struct InputError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
