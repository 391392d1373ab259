#include "json.h"

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace {

constexpr int kDeepest = 64;  // nested values take the stack

class Reader {
  public:
    explicit Reader(std::string_view text) : text_(text) {}

    Json document() {
        Json found = value(0);
        blank();
        if (at_ != text_.size()) fail("text after its end");
        return found;
    }

  private:
    Json value(int depth) {
        if (depth > kDeepest) fail("nested too deep");
        blank();
        Json out;
        switch (peek()) {
            case '{':
                out.kind = Json::Kind::object;
                list('}', [&] {
                    blank();
                    std::string name = string();
                    blank();
                    expect(':');
                    out.object.emplace_back(std::move(name), value(depth + 1));
                });
                return out;
            case '[':
                out.kind = Json::Kind::array;
                list(']', [&] { out.array.push_back(value(depth + 1)); });
                return out;
            case '"':
                out.kind = Json::Kind::string;
                out.string = string();
                return out;
            case 't':
            case 'f':
                out.kind = Json::Kind::boolean;
                out.boolean = peek() == 't';
                word(out.boolean ? "true" : "false");
                return out;
            case 'n':
                word("null");
                return out;
            default:
                out.kind = Json::Kind::number;
                out.number = number();
                return out;
        }
    }

    template <typename Item>
    void list(char end, const Item& item) {
        ++at_;
        blank();
        if (take(end)) return;
        do {
            item();
            blank();
        } while (take(','));
        expect(end);
    }

    std::string string() {
        expect('"');
        std::string out;
        while (!take('"')) {
            const char one = next();
            if (static_cast<unsigned char>(one) < 0x20) fail("a control character in a string");
            if (one == '\\')
                escape(out);
            else
                out += one;
        }
        return out;
    }

    void escape(std::string& out) {
        const char one = next();
        switch (one) {
            case 'b': out += '\b'; return;
            case 'f': out += '\f'; return;
            case 'n': out += '\n'; return;
            case 'r': out += '\r'; return;
            case 't': out += '\t'; return;
            case '"':
            case '\\':
            case '/': out += one; return;
            case 'u': break;
            default: fail("an unknown escape");
        }
        unsigned code = hexadecimal();
        if (code >= 0xd800 && code < 0xdc00) {  // the first half of a pair
            if (!take('\\') || !take('u')) fail("half a pair of surrogates");
            const unsigned low = hexadecimal();
            if (low < 0xdc00 || low > 0xdfff) fail("half a pair of surrogates");
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        const auto byte = [&](unsigned bits) { out += static_cast<char>(bits); };
        if (code < 0x80) {
            byte(code);
            return;
        }
        if (code < 0x800) {
            byte(0xc0 | code >> 6);
        } else if (code < 0x10000) {
            byte(0xe0 | code >> 12);
            byte(0x80 | (code >> 6 & 0x3f));
        } else {
            byte(0xf0 | code >> 18);
            byte(0x80 | (code >> 12 & 0x3f));
            byte(0x80 | (code >> 6 & 0x3f));
        }
        byte(0x80 | (code & 0x3f));
    }

    unsigned hexadecimal() {
        unsigned out = 0;
        for (int i = 0; i < 4; ++i) {
            const char one = next();
            const unsigned digit = one >= '0' && one <= '9'   ? one - '0'
                                   : one >= 'a' && one <= 'f' ? one - 'a' + 10
                                   : one >= 'A' && one <= 'F' ? one - 'A' + 10
                                                              : 16;
            if (digit == 16) fail("an unknown escape");
            out = out * 16 + digit;
        }
        return out;
    }

    double number() {
        const std::size_t start = at_;
        take('-');
        if (!take('0')) digits();
        if (take('.')) digits();
        if (take('e') || take('E')) {
            if (!take('+')) take('-');
            digits();
        }
        return std::strtod(std::string(text_.substr(start, at_ - start)).c_str(), nullptr);
    }

    void digits() {
        if (peek() < '0' || peek() > '9') fail("no value");
        while (peek() >= '0' && peek() <= '9') ++at_;
    }

    void word(std::string_view wanted) {
        if (text_.substr(at_, wanted.size()) != wanted) fail("no value");
        at_ += wanted.size();
    }

    void blank() {
        while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    char next() {
        if (at_ == text_.size()) fail("it ends too early");
        return text_[at_++];
    }

    bool take(char wanted) {
        if (at_ == text_.size() || text_[at_] != wanted) return false;
        ++at_;
        return true;
    }

    void expect(char wanted) {
        if (!take(wanted)) fail((std::string("no ") + wanted).c_str());
    }

    [[noreturn]] void fail(const char* reason) const {
        throw std::runtime_error(std::string(reason) + " at byte " + std::to_string(at_));
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

}  // namespace

const Json* Json::member(std::string_view name) const {
    for (auto one = object.rbegin(); one != object.rend(); ++one)
        if (one->first == name) return &one->second;
    return nullptr;
}

Json parse_json(std::string_view text) { return Reader(text).document(); }

std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (const char one : text) {
        if (one == '"' || one == '\\') {
            (out += '\\') += one;
        } else if (static_cast<unsigned char>(one) < 0x20) {
            char code[8];
            std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(one));
            out += code;
        } else {
            out += one;
        }
    }
    return out += '"';
}
