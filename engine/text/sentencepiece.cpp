/* sentencepiece.cpp: the one file that knows libsentencepiece, and the one in C++.
 *
 * The library's own loader reads a file of any size; so the file is read here, within
 * a bound, and handed over as bytes. Whether a space is put before a text stands in the
 * model; since a protocol buffer's later fields win, four bytes behind it say otherwise.
 * Exceptions (out of memory, mostly) end here. */
#include "engine/text/sentencepiece.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <sentencepiece_processor.h>

struct spm_model {
    sentencepiece::SentencePieceProcessor processor;
};

namespace {

constexpr long max_model_bytes = 64L << 20;
/* ModelProto.normalizer_spec (3) { add_dummy_prefix (3): false } */
const char no_dummy_prefix[] = {0x1a, 0x02, 0x18, 0x00};

/* Runs f, which returns a moe_status, and turns what it throws into one. */
template <typename F> moe_status guarded(moe_error *err, F f)
{
    try {
        return f();
    } catch (const std::bad_alloc &) {
        return moe_fail(err, MOE_E_MEMORY, "sentencepiece: out of memory");
    } catch (const std::exception &e) {
        return moe_fail(err, MOE_E_FORMAT, "sentencepiece: %.200s", e.what());
    } catch (...) {
        return moe_fail(err, MOE_E_FORMAT, "sentencepiece: an unknown exception");
    }
}

moe_status read_file(const char *path, std::string *out, moe_error *err)
{
    struct closer { void operator()(FILE *f) const { std::fclose(f); } };
    std::unique_ptr<FILE, closer> f(std::fopen(path, "rbe"));
    if (!f)
        return moe_fail(err, MOE_E_IO, "%s: cannot open: %s", path, std::strerror(errno));
    if (std::fseek(f.get(), 0, SEEK_END) != 0)
        return moe_fail(err, MOE_E_IO, "%s: cannot read: %s", path, std::strerror(errno));
    long bytes = std::ftell(f.get());
    std::rewind(f.get());
    if (bytes < 1 || bytes > max_model_bytes)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %ld bytes, expected a SentencePiece model of 1 to %ld", path, bytes,
                        max_model_bytes);
    out->resize(static_cast<size_t>(bytes));
    if (std::fread(&(*out)[0], 1, out->size(), f.get()) != out->size())
        return moe_fail(err, MOE_E_IO, "%s: cannot read %ld bytes", path, bytes);
    return MOE_OK;
}

template <typename T> T *copy_of(const T *from, size_t n)
{
    T *to = static_cast<T *>(std::malloc((n ? n : 1) * sizeof(T)));
    if (!to)
        throw std::bad_alloc();
    if (n)
        std::memcpy(to, from, n * sizeof(T));
    return to;
}

moe_status open_model(const char *path, const std::string &bytes, spm_model *m, moe_error *err)
{
    auto loaded = m->processor.LoadFromSerializedProto(bytes);
    if (!loaded.ok())
        return moe_fail(err, MOE_E_FORMAT, "%s: is no SentencePiece model: %.200s", path,
                        loaded.ToString().c_str());
    if (m->processor.GetPieceSize() < 1 || m->processor.unk_id() < 0)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: has %d pieces and the unknown one is %d, expected both there", path,
                        m->processor.GetPieceSize(), m->processor.unk_id());
    return MOE_OK;
}

} // namespace

moe_status spm_open_bytes(const char *name, const void *bytes, size_t n, spm_model **out,
                          moe_error *err)
{
    *out = nullptr;
    return guarded(err, [&] {
        std::unique_ptr<spm_model> m(new spm_model);
        moe_status status = open_model(name, std::string(static_cast<const char *>(bytes), n),
                                       m.get(), err);
        if (status == MOE_OK)
            *out = m.release();
        return status;
    });
}

moe_status spm_open(const char *path, bool dummy_prefix, spm_model **out, moe_error *err)
{
    *out = nullptr;
    return guarded(err, [&] {
        std::string bytes;
        moe_status status = read_file(path, &bytes, err);
        if (!dummy_prefix)
            bytes.append(no_dummy_prefix, sizeof no_dummy_prefix);
        return status == MOE_OK ? spm_open_bytes(path, bytes.data(), bytes.size(), out, err)
                                : status;
    });
}

void spm_close(spm_model *s)
{
    delete s;
}

int spm_size(const spm_model *s)
{
    return s->processor.GetPieceSize();
}

const char *spm_string(const spm_model *s, int32_t id)
{
    return s->processor.IdToPiece(id).c_str();
}

int32_t spm_find(const spm_model *s, const char *piece)
{
    int32_t id = -1;
    guarded(nullptr, [&] {
        int found = s->processor.PieceToId(piece);
        id = s->processor.IdToPiece(found) == piece ? found : -1;
        return MOE_OK;
    });
    return id;
}

int32_t spm_unk(const spm_model *s)
{
    return s->processor.unk_id();
}

bool spm_is_special(const spm_model *s, int32_t id)
{
    return s->processor.IsControl(id) || s->processor.IsUnknown(id);
}

moe_status spm_encode(const spm_model *s, const char *text, size_t n, spm_piece **out,
                      int *n_out, moe_error *err)
{
    *out = nullptr;
    *n_out = 0;
    return guarded(err, [&] {
        auto coded = s->processor.EncodeAsImmutableProto(absl::string_view(text, n));
        std::vector<spm_piece> pieces;
        pieces.reserve(coded.pieces_size());
        for (const auto &p : coded.pieces())
            pieces.push_back({static_cast<int32_t>(p.id()), static_cast<int32_t>(p.begin()),
                              static_cast<int32_t>(p.end())});
        *out = copy_of(pieces.data(), pieces.size());
        *n_out = static_cast<int>(pieces.size());
        return MOE_OK;
    });
}

moe_status spm_decode(const spm_model *s, const int32_t *ids, int n, char **out, moe_error *err)
{
    *out = nullptr;
    return guarded(err, [&] {
        std::string text = s->processor.DecodeIds(std::vector<int>(ids, ids + n));
        *out = copy_of(text.c_str(), text.size() + 1);
        return MOE_OK;
    });
}
