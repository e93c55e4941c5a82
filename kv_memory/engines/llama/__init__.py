"""The parts of the llama.cpp engine (../llama_cpp.py), over the low-level functions of llama-cpp-python."""
