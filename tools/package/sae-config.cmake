# find_package(sae) gives sae::sae: the header, and libm where there is one. In one source file of the
# program, #define SAE_IMPLEMENTATION before the include. For more than one thread link OpenMP too
# (find_package(OpenMP), OpenMP::OpenMP_C). sae::static, with the implementation in it, is there if the
# package was installed by CMake with SAE_LIBRARY on.
get_filename_component(_sae_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET sae::sae)
    add_library(sae::sae INTERFACE IMPORTED)
    set_target_properties(sae::sae PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_sae_prefix}/include")
    if(UNIX)
        set_target_properties(sae::sae PROPERTIES INTERFACE_LINK_LIBRARIES m)
    endif()
endif()
if(NOT TARGET sae::static)
    include("${CMAKE_CURRENT_LIST_DIR}/sae-static.cmake" OPTIONAL)
endif()
unset(_sae_prefix)
